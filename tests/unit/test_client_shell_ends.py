# SPDX-License-Identifier: Apache-2.0
"""A shell's commands that must stop, refusals, absence, several threads: nothing is left over."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon

from agentcgroup import Client
from agentcgroup import log as agentcgroup_log
from agentcgroup.client import Shell, call_dialog, channels, shell_dialog
from agentcgroup.errors import DaemonUnavailableError, RefusedError, RemoteError
from agentcgroup.protocol.errors import Kind
from agentcgroup.types.outcomes import Reason

# It hears SIGINT, and goes on.
STUBBORN = "trap : INT; while :; do sleep 0.05; done"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.agent_path, timeout_s=10) as made:
        yield made


@pytest.fixture
def shell(client: Client) -> Iterator[Shell]:
    with client.shell(text=True) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_dialog, "RETRY_S", 0.2)
    monkeypatch.setattr(channels, "RETRY_S", 0.2)
    monkeypatch.setattr(agentcgroup_log, "_said", set())


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 20
    while runs(pid):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


# Timeouts


@pytest.mark.parametrize(
    "command",
    ["echo begun; sleep 60; echo no", "echo begun; while :; do :; done",
     "echo begun; while :; do sleep 0.01; done", "f() { sleep 60; }; echo begun; f",
     "echo begun; (sleep 60; echo no) | cat; echo no", "echo begun; sleep 2 & wait",
     "echo begun; echo $(sleep 60) >&2", "echo begun; cat /dev/zero >/dev/null"],
)  # fmt: skip
def test_a_timed_out_command_leaves_the_shell_as_it_was(
    daemon: FakeDaemon, shell: Shell, command: str
) -> None:
    shell.run("mark=still")
    with pytest.raises(subprocess.TimeoutExpired) as late:
        shell.run(command, timeout=0.3)
    assert (late.value.cmd, late.value.timeout, late.value.output) == (command, 0.3, "begun\n")
    assert shell.alive and shell.call is not None and shell.call.outcome is not None
    assert daemon.params("tool.end")[-1] == {"call": "c-2", "signal": 2}
    assert shell.run("echo $mark").stdout == "still\n"
    assert not shell.restarted


def test_a_shell_that_heeds_nothing_is_killed_before_its_call_ends(
    daemon: FakeDaemon, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_dialog, "_GRACE_S", 0.4)
    pid = int(shell.run("echo $$").stdout)
    alive_at_end = []

    def end(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        alive_at_end.append(runs(pid))
        return FakeDaemon._tool_end(daemon, params, fd)

    daemon.handlers["tool.end"] = end
    with pytest.raises(subprocess.TimeoutExpired):
        shell.run(STUBBORN, timeout=0.1)
    assert alive_at_end == [False] and not shell.alive
    assert daemon.params("tool.end")[-1] == {"call": "c-2", "signal": 9}
    assert shell.run("echo fresh").stdout == "fresh\n" and shell.restarted


def test_a_call_that_is_over_its_own_time_is_interrupted_too(
    daemon: FakeDaemon, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon kills what is in the call; the shell itself is not."""
    monkeypatch.setattr(shell_dialog, "_DAEMON_FIRST_S", 0.1)
    daemon.outcomes["c-1"] = {"call": "c-1", "session": "s", "reason": "timed_out"}
    late = shell.run("echo begun; while :; do :; done", timeout_s=0.1)
    assert (late.returncode, late.stdout) == (-signal.SIGINT, "begun\n")
    assert late.outcome is not None and late.outcome.reason is Reason.TIMED_OUT
    assert shell.alive
    daemon.handlers["tool.begin"] = lambda p, f: {
        **FakeDaemon._tool_begin(daemon, p, f), "mode": "observe",
    }  # fmt: skip
    assert shell.run("sleep 0.5", timeout_s=0.1).returncode == 0


def test_a_failing_listener_stops_the_command(daemon: FakeDaemon, shell: Shell) -> None:
    shell.run("mark=still")
    with pytest.raises(ZeroDivisionError):
        shell.run("echo x; yes", on_output=lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]
    assert daemon.params("tool.end")[-1] == {"call": "c-2", "signal": 2}
    assert shell.run("echo $mark").stdout == "still\n"
    with pytest.raises(UnicodeDecodeError):
        shell.run("printf '\\303'; (exit 3)")
    assert daemon.params("tool.end")[-1] == {"call": "c-4", "exit_code": 3}


def test_an_interrupted_caller_stops_the_command(daemon: FakeDaemon, shell: Shell) -> None:
    def raised(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    shell.run("mark=still")
    before = signal.signal(signal.SIGALRM, raised)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            shell.run("sleep 60")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert daemon.params("tool.end")[-1] == {"call": "c-2", "signal": 2}
    assert shell.run("echo $mark").stdout == "still\n"


# The daemon's answers


def test_a_refused_command_never_reaches_the_shell(
    daemon: FakeDaemon, shell: Shell, tmp_path: Path
) -> None:
    daemon.refuse("tool.begin", Kind.WAIT_TIMEOUT, field="intent.memory", remedy="ask for less")
    with pytest.raises(RefusedError) as refused:
        shell.run(f"touch {tmp_path}/ran", memory="9G")
    assert shell.call is not None and refused.value.outcome is shell.call.outcome
    assert not shell.alive
    del daemon.handlers["tool.begin"]
    shell.run("mark=still")
    assert not shell.restarted
    daemon.refuse("tool.begin", Kind.REFUSED, once=True)
    with pytest.raises(RefusedError):
        shell.run(f"touch {tmp_path}/ran")
    assert shell.run("echo $mark").stdout == "still\n"
    assert not (tmp_path / "ran").exists()
    assert daemon.methods().count("tool.end") == 2


def test_without_exec_boundary_nothing_runs(
    daemon: FakeDaemon, shell: Shell, tmp_path: Path
) -> None:
    remedy = "run each command as a tool call of its own"
    daemon.refuse("tool.begin", Kind.NOT_SUPPORTED, field="shell", remedy=remedy)
    for _ in range(2):
        with pytest.raises(RemoteError) as missing:
            shell.run(f"touch {tmp_path}/ran")
        assert (missing.value.kind, missing.value.remedy) == ("not_supported", remedy)
    assert not shell.alive and not (tmp_path / "ran").exists()


def test_restart_of_the_daemon_in_mid_command(daemon: FakeDaemon, shell: Shell) -> None:
    def restart(_name: str, _piece: str) -> None:
        daemon.stop()
        daemon.start()

    result = shell.run("echo x; exit_code=5; (exit 5)", on_output=restart)
    assert result.outcome is not None and result.outcome.exit_code == 5
    assert daemon.methods() == ["tool.begin", "tool.resume"]
    assert shell.run("echo $exit_code").stdout == "5\n"


def test_absent_daemon_warns_once_and_runs(
    tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(str(tmp_path / "agent.sock"))
    with caplog.at_level(logging.WARNING), client.shell(text=True) as shell:
        left = int(shell.run("mark=still; sleep 60 & echo $!").stdout)
        result = shell.run("echo $mark; (exit 4)")
        assert (result.returncode, result.stdout) == (4, "still\n")
        assert result.outcome is not None and result.outcome.reason is Reason.FAILED
        assert not result.call.managed and runs(left)
        kept = int(shell.run("sleep 60 & echo $!", background="keep").stdout)
    assert len(caplog.records) == 1 and "run without limits" in caplog.text
    assert soon_gone(left) and soon_gone(kept)
    with client.shell(text=True) as shell:
        kept = int(shell.run("sleep 60 & echo $!", background="keep").stdout)
    assert runs(kept)
    os.kill(kept, signal.SIGKILL)


def test_require_fails_without_daemon(tmp_path: Path, impatient: None) -> None:
    shell = Client(str(tmp_path / "agent.sock"), require=True).shell()
    with shell, pytest.raises(DaemonUnavailableError):
        shell.run(f"touch {tmp_path}/ran")
    assert not (tmp_path / "ran").exists()


# Several users, and the end


def test_threads_take_turns(daemon: FakeDaemon, shell: Shell) -> None:
    said = []

    def work(number: int) -> None:
        said.append(shell.run(f"n={number}; sleep 0.02; echo $n").stdout == f"{number}\n")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == [True] * 8
    assert daemon.methods() == ["tool.begin", "tool.end"] * 8


def test_a_command_from_ones_own_listener_is_an_error(shell: Shell) -> None:
    with pytest.raises(RuntimeError, match="runs a command"):
        shell.run("echo x", on_output=lambda *_: shell.run("true") and None)
    assert shell.run("echo goes on").stdout == "goes on\n"


def test_close_from_another_thread_and_from_a_listener(daemon: FakeDaemon, client: Client) -> None:
    shell = client.shell()
    closer = threading.Timer(0.3, shell.close)
    closer.start()
    ended = shell.run("while sleep 0.05; do :; done")
    closer.join(20)
    assert (ended.returncode, ended.shell_ended, shell.alive) == (-9, True, False)
    assert daemon.methods() == ["tool.begin", "tool.end"]
    shell = client.shell()
    assert shell.run("echo x; sleep 1", on_output=lambda *_: shell.close()).returncode == -9
    for _ in range(2):
        shell.close()
        with pytest.raises(RuntimeError, match="is closed"):
            shell.run("true")


def test_closing_lets_the_shell_leave_by_itself(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.shell(cwd=tmp_path) as shell:
        shell.run("trap 'echo left >left' EXIT")
    assert (tmp_path / "left").read_text() == "left\n"
    monkeypatch.setattr(shell_dialog, "_LEAVE_S", 0.1)
    with client.shell(text=True) as shell:
        pid = int(shell.run("trap 'while :; do :; done' EXIT; echo $$").stdout)
    assert not runs(pid)


def test_nothing_is_left_over(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_dialog, "_GRACE_S", 0.3)

    def use() -> None:
        with client.shell() as shell:
            shell.run("x=1; cat", input=b"y")
            shell.run("exit 3")
            with pytest.raises(subprocess.TimeoutExpired):
                shell.run(STUBBORN, timeout=0.05)
            with pytest.raises(subprocess.TimeoutExpired):
                shell.run("sleep 60", timeout=0.05)
            shell.run("exec true")
            shell.run("true")

    def children() -> list[str]:
        return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()

    children_before = children()
    use()
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        use()
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert children() == children_before


def test_a_dropped_shell_leaves(client: Client) -> None:
    shell = client.shell(text=True)
    pid = int(shell.run("echo $$").stdout)
    with pytest.warns(ResourceWarning, match="still running"):
        del shell
        gc.collect()
    assert soon_gone(pid)


def test_a_forked_child_leaves_the_shell_alone(daemon: FakeDaemon, shell: Shell) -> None:
    shell.run("mark=still")
    pid = os.fork()
    if pid == 0:
        try:
            with pytest.raises(RuntimeError, match="make another"):
                shell.run("mark=childs")
            shell.close()
        finally:
            os._exit(0 if daemon.methods().count("tool.begin") == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert shell.run("echo $mark").stdout == "still\n"
