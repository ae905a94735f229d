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
from agentcgroup.client import call_dialog
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
    monkeypatch.setattr(call_dialog, "RETRY_S", 0.0)
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


TELL = 'echo "$AGENTCGROUP_CPUS $AGENTCGROUP_MEMORY"'


def test_commands_and_agents_are_told_what_they_may_use(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(daemon, "session.create", {"session": session_info("s")})
    answer(daemon, "session.end", {"session": "s", "outcomes": []})
    monkeypatch.delenv("AGENTCGROUP_CPUS", raising=False)
    monkeypatch.delenv("AGENTCGROUP_MEMORY", raising=False)
    wishes = ("--cpu-max", "0.5", "--memory-max", "1G")
    assert run("run", *wishes, "--", "sh", "-c", TELL)[1] == f"1 {1 << 30}\n"
    monkeypatch.setenv("AGENTCGROUP_CPUS", "7")
    assert run("run", "--", "sh", "-c", TELL)[1] == "7 \n"
    budget = ("--cpu", "0.5", "--memory", "2G")
    assert run("session", "run", *budget, "--", "sh", "-c", TELL)[1] == f"1 {2 << 30}\n"
    code, _, err = run("session", "run", "--memory", "2Q", "--", "true")
    assert code == 2 and "memory" in err


def test_budget_before_acting(daemon: FakeDaemon, run: Run) -> None:
    budget = {
        "session": "s", "memory_bytes": 4 << 30, "memory_free_bytes": 3 << 30, "cpu": 0.5,
        "granted_bytes": 0, "memory_current_bytes": 0, "calls": 0, "queued": 0,
    }  # fmt: skip
    answer(daemon, "session.budget", budget)
    code, out, _ = run("session", "budget")
    assert code == 0 and "memory free" in out and "3 GiB of memory are free" in out
    assert json.loads(run("session", "budget", "s", "--json")[1]) == budget
    assert daemon.params("session.budget")[-1] == {"session": "s"}


def test_as_a_shell_without_the_static_program(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTCGROUP_SHELL", raising=False)
    assert run("run", "-c", 'echo "$0 $1"; exit 3', "a", "b")[:2] == (3, "a b\n")
    assert run("run", "-o", "pipefail", "-c", "false | true")[0] == 1
    commands = [params["intent"]["command"] for params in daemon.params("tool.begin")]
    assert commands[1] == "bash -o pipefail -c 'false | true'"
    assert run("run", "--require", "--label", "x", "--memory=1G", "-c", "exit 4")[0] == 4
    assert run("run", "--label", "x", "--", "sh", "-c", "exit 5")[0] == 5
