# SPDX-License-Identifier: Apache-2.0
"""Commands that run something: `run` and `session run`, their exit codes and signals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_fake import ROOT, Run, answer
from client_fake_daemon import FakeDaemon, session_info

from agentcgroup.cli import processes
from agentcgroup.client import toolcall
from agentcgroup.protocol.errors import Kind

pytest_plugins = ["cli_fixtures"]


def test_run_without_the_static_program(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    written = tmp_path / "outcome.json"
    status, out, err = run(
        "run",
        "--session",
        "s",
        "--memory",
        "1G",
        "--timeout",
        "5m",
        "--json-outcome",
        str(written),
        "--",
        "sh",
        "-c",
        "echo hi; exit 3",
    )
    assert (status, out, err) == (3, "hi\n", "")
    (sent,) = daemon.params("tool.begin")
    assert sent["session"] == "s"
    assert sent["intent"]["memory"] == 1 << 30 and sent["intent"]["timeout_s"] == 300.0
    assert json.loads(written.read_text())["exit_code"] == 3
    assert run("run", "--", "kill-no-such")[0] == 127
    assert run("run", "--", "/dev/null")[0] == 126
    assert run("run", "--", "sh", "-c", "kill -TERM $$")[0] == 143


@pytest.mark.parametrize(
    ("reason", "status"),
    [("oom_killed", 137), ("killed_by_policy", 137), ("timed_out", 124),
     ("stopped_by_supervisor", 143), ("failed", 1)],
)  # fmt: skip
def test_run_exits_by_reason(daemon: FakeDaemon, run: Run, reason: str, status: int) -> None:
    daemon.outcomes["c-1"] = {
        "call": "c-1", "session": "s", "reason": reason, "message": "Try less.",
    }  # fmt: skip
    code, _, err = run("run", "--", "false")
    assert (code, err) == (status, "Try less.\n")


def test_run_refused_is_75(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.refuse("tool.begin", Kind.WAIT_TIMEOUT, remedy="ask for less")
    written = tmp_path / "outcome.json"
    status, out, err = run("run", "--json-outcome", str(written), "--", "echo", "hi")
    assert (status, out) == (75, "")
    assert err == "agentcgroup: cannot do tool.begin: ask for less\n"
    assert json.loads(written.read_text())["reason"] == "refused"


def test_run_require_without_daemon(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolcall, "RETRY_S", 0.0)
    monkeypatch.setattr("agentcgroup.client.channels.RETRY_S", 0.0)
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "x.sock"))
    assert run("run", "--require", "--", "true")[0] == 69


def test_run_becomes_the_static_program(tmp_path: Path) -> None:
    """Whatever follows `run` reaches it untouched, and nothing of Python remains."""
    code = (
        "import sys, agentcgroup.cli.main as m, agentcgroup.client.child as c\n"
        "c.static_launcher = lambda: '/bin/echo'\n"
        "sys.argv = ['agentcgroup', 'run', '--memory', '2G', '--', 'a b', '--x']\n"
        "m.main()\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert shown.stdout == "--memory 2G -- a b --x\n"


def test_session_run(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    def create(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        assert fd is not None and not proof.exists()
        return {"session": session_info(params["name"], ephemeral=True)}

    daemon.handlers["session.create"] = create
    answer(daemon, "session.end", {"session": "a"})
    script = f'touch {proof}; echo "$AGENTCGROUP_SOCKET"; exit 9'
    status, out, _ = run(
        "session", "run", "--name", "a", "--memory", "1G", "--", "sh", "-c", script
    )
    assert (status, out) == (9, daemon.agent_path + "\n")
    assert proof.exists()
    assert daemon.params("session.create") == [{"name": "a", "memory": 1 << 30, "ephemeral": True}]
    assert daemon.methods() == ["session.create", "session.end"]


def test_session_run_refused_runs_nothing(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    daemon.refuse("session.create", Kind.OVER_BUDGET)
    assert run("session", "run", "--", "touch", str(tmp_path / "ran"))[0] == 75
    assert not (tmp_path / "ran").exists()


def test_signals_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "trap 'exit 5' TERM; read go; kill -TERM $PPID; while :; do sleep 0.02; done"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) as process:
        wait = process.wait

        def go_and_wait() -> int:
            """By now the handlers are there: a signal meets them, not this test run."""
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            return wait()

        monkeypatch.setattr(process, "wait", go_and_wait)
        assert processes.wait_forwarding(process) == 5
        monkeypatch.undo()
