# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup top` as a program: on a terminal with keys, in a pipe, with --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon
from terminal_program import ENTER_SCREEN, LEAVE_SCREEN, TerminalProgram
from top_world import snapshot

ROOT = Path(__file__).parents[2]
TOP = [sys.executable, "-c", "from agentcgroup.cli.main import main; main()", "top"]
PATIENCE_S = 30.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        began_s = time.monotonic()

        def status(_params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
            now = snapshot(time.monotonic() - began_s)
            sessions = [info.model_dump(mode="json") for info in now.sessions]
            return {**now.status, "sessions": sessions}

        def calls(_params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
            now = snapshot(time.monotonic() - began_s)
            return {"calls": [info.model_dump(mode="json") for info in now.calls]}

        running.handlers["host.status"] = status
        running.handlers["tool.list"] = calls
        yield running


def environment(daemon: FakeDaemon, **more: str) -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**known, "AGENTCGROUP_SOCKET": daemon.agent_path, "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color", **more}  # fmt: skip


def once(daemon: FakeDaemon, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOP, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment(daemon, **more), timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def terminal_of(daemon: FakeDaemon) -> TerminalProgram:
    return TerminalProgram(TOP, environment(daemon), PATIENCE_S)


def test_keys_sort_filter_and_quit(daemon: FakeDaemon) -> None:
    with terminal_of(daemon) as terminal:
        shown = terminal.until("alice", "carol", "q quit")
        assert ENTER_SCREEN in shown and "MEMORY" in shown
        assert not termios.tcgetattr(terminal.slave)[3] & termios.ECHO
        terminal.type("c")
        terminal.until("CPU %▼")
        terminal.type("/pyt")
        terminal.until("filter: pyt")
        terminal.type("\r")
        shown = terminal.until("filter 'pyt'")
        assert "alice" in shown and "carol" not in shown
        terminal.type("\x1b")
        terminal.until("carol")
        terminal.type("q")
        assert terminal.ended() == 0
        assert LEAVE_SCREEN in terminal.text and terminal.is_as_it_was()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_give_the_terminal_back(daemon: FakeDaemon, number: signal.Signals) -> None:
    with terminal_of(daemon) as terminal:
        terminal.until("alice")
        terminal.process.send_signal(number)
        assert terminal.ended() == (0 if number == signal.SIGINT else 143)
        assert LEAVE_SCREEN in terminal.text and "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_stopped_and_continued(daemon: FakeDaemon) -> None:
    with terminal_of(daemon) as terminal:
        terminal.until("alice")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.until(LEAVE_SCREEN)
        assert os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED) is not None
        assert termios.tcgetattr(terminal.slave) == terminal.before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(ENTER_SCREEN, "alice")
        terminal.type("q")
        assert terminal.ended() == 0


def test_a_new_size_is_drawn_at_once(daemon: FakeDaemon) -> None:
    with terminal_of(daemon) as terminal:
        terminal.until("alice")
        termios.tcsetwinsize(terminal.slave, (10, 200))
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.until("LAYERS", "1-3 of 8")
        terminal.type("\x1b[B")
        terminal.until("2-4 of 8")
        terminal.type("q")
        assert terminal.ended() == 0


def test_an_absent_daemon_is_said_and_waited_for(daemon: FakeDaemon) -> None:
    with terminal_of(daemon) as terminal:
        terminal.until("3 sessions, 5 calls")
        daemon.stop()
        terminal.until("no figures for", "alice")
        daemon.start()
        terminal.until("3 sessions, 5 calls")
        terminal.type("q")
        assert terminal.ended() == 0


def test_without_a_terminal_one_table(daemon: FakeDaemon) -> None:
    shown = once(daemon)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("agentcgroup · enforce") and "\x1b" not in shown.stdout
    assert {"alice", "c1", "carol"} <= {line.split()[0] for line in lines if line}
    assert len(lines) == 13 and "LAYERS" in lines[4]
    assert "LAYERS" not in once(daemon, COLUMNS="80").stdout


def test_a_locale_without_the_characters_shows_others(daemon: FakeDaemon) -> None:
    shown = once(daemon, PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "") and "pytest -q" in shown.stdout
    assert shown.stdout.isascii() and "?" in shown.stdout


def test_json_is_one_object(daemon: FakeDaemon) -> None:
    shown = once(daemon, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    told = json.loads(shown.stdout)
    assert [s["name"] for s in told["sessions"]] == ["alice", "bob", "carol"]
    rates = {c["call"]: c["cpu_pct"] for c in told["calls"]}
    assert rates["c1"] == pytest.approx(100, abs=20) and rates["c5"] is None
    assert daemon.params("tool.list")[-1] == {"ended": False, "figures": True, "limit": 1000}
    assert {name for name, *_ in daemon.requests} == {"admin"}


def test_no_sessions_and_no_daemon(daemon: FakeDaemon) -> None:
    daemon.handlers["host.status"] = lambda _params, _fd: {"mode": "enforce", "sessions": []}
    shown = once(daemon)
    assert shown.returncode == 0 and "agentcgroup session run" in shown.stdout
    assert not daemon.params("tool.list")
    daemon.stop()
    shown = once(daemon)
    assert shown.returncode == 69 and shown.stdout == "" and shown.stderr.count("\n") == 1


def test_very_many_calls_are_asked_for_by_session(daemon: FakeDaemon) -> None:
    answer = daemon.handlers["host.status"]

    def many(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        told = answer(params, fd)
        told["sessions"][0]["calls"] = [f"c{n}" for n in range(500)]
        return told

    daemon.handlers["host.status"] = many
    assert once(daemon, "--json").returncode == 0
    assert [p.get("session") for p in daemon.params("tool.list")][:2] == ["alice", "bob"]
