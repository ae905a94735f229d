# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-run between the terminal, whoever signals it, and the command."""

from __future__ import annotations

import os
import pty
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from shim_fake import SILENT, WAIT_S, eventually

pytest_plugins = ["shim_program"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGWINCH"])
def test_signals_reach_the_command(start_daemon, spawn, name):
    start_daemon()
    script = f"trap 'echo caught; exit 9' {name[3:]}; echo ready; while :; do sleep 0.01; done"
    process = spawn("sh", "-c", script)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    assert process.stdout.readline() == "caught\n"
    assert process.wait(WAIT_S) == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_queued_ends_it_unrun(start_daemon, spawn, tmp_path, number):
    daemon = start_daemon(tool_begin=SILENT)
    process = spawn("touch", str(tmp_path / "ran"))
    daemon.wait_for("tool.begin")
    process.send_signal(number)
    assert process.wait(WAIT_S) == 128 + number
    assert not (tmp_path / "ran").exists()
    assert not Path(f"/proc/{daemon.pids[0]}").exists()


def test_the_waiting_child_dies_with_the_program(start_daemon, spawn, tmp_path):
    daemon = start_daemon(tool_begin=SILENT)
    process = spawn("touch", str(tmp_path / "ran"))
    daemon.wait_for("tool.begin")
    process.kill()
    process.wait(WAIT_S)
    eventually(lambda: not Path(f"/proc/{daemon.pids[0]}").exists() or _is_zombie(daemon.pids[0]))
    assert not (tmp_path / "ran").exists()


def _is_zombie(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def _in_terminal(program: Path, env: dict[str, str], *command: str) -> tuple[int, int]:
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(program, [str(program), *command], env)
        finally:
            os._exit(98)
    return pid, terminal


def _read_until(terminal: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        seen += os.read(terminal, 1024)
    return seen


@pytest.fixture
def terminal_env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "AGENTCGROUP_SOCKET": str(tmp_path / "agent" / "agent.sock")}


def test_control_c_in_a_terminal_reaches_the_command_once(start_daemon, program, terminal_env):
    start_daemon()
    script = "trap 'echo got' INT; echo ready; sleep 0.3; read x; echo [$x]; exit 4"
    pid, terminal = _in_terminal(program, terminal_env, "sh", "-c", script)
    _read_until(terminal, b"ready")
    os.write(terminal, b"\x03")
    seen = _read_until(terminal, b"got")
    os.write(terminal, b"typed\n")
    seen += _read_until(terminal, b"[typed]")
    assert seen.count(b"got") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def test_it_stops_and_continues_with_the_command(start_daemon, spawn):
    start_daemon()
    # Not a session leader: its process group is not orphaned, so stopping works.
    process = spawn("sh", "-c", "echo ready; kill -TSTP $$; echo again; exit 6", process_group=0)
    assert process.stdout.readline() == "ready\n"
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout.readline() == "again\n"
    assert process.wait(WAIT_S) == 6


def test_a_held_command_does_not_stop_the_program(start_daemon, spawn):
    daemon = start_daemon()
    process = spawn("sh", "-c", "echo ready; while :; do sleep 0.01; done")
    process.stdout.readline()
    os.kill(daemon.pids[0], signal.SIGSTOP)
    eventually(lambda: ") T " in Path(f"/proc/{daemon.pids[0]}/stat").read_text())
    time.sleep(0.05)
    assert ") S " in Path(f"/proc/{process.pid}/stat").read_text()
    os.kill(daemon.pids[0], signal.SIGCONT)
    os.kill(daemon.pids[0], signal.SIGKILL)
    assert process.wait(WAIT_S) == 137
