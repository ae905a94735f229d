# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-run with a daemon that is absent, restarts, breaks or hangs."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

from shim_fake import BEGUN, BREAK, SILENT, WAIT_S, outcome, refusal

pytest_plugins = ["shim_program"]
ABSENT = "no daemon answers on"


def test_without_a_daemon(spawn, tmp_path):
    """Both stances at once: each takes the two seconds that a daemon has to come up."""
    file = tmp_path / "outcome.json"
    runs = [
        spawn("--json-outcome", str(file), "sh", "-c", "exit 5"),
        spawn("--require", "sh", "-c", "exit 5"),
    ]
    begun = time.monotonic()
    errors = [process.communicate(timeout=WAIT_S)[1] for process in runs]
    assert 1.5 < time.monotonic() - begun < 6
    assert [process.returncode for process in runs] == [5, 69]
    assert all(ABSENT in error and len(error.splitlines()) == 1 for error in errors)
    assert file.read_text() == "null\n"


def test_a_daemon_that_comes_up_in_time(start_daemon, spawn):
    process = spawn("sh", "-c", "exit 5")
    time.sleep(0.3)
    daemon = start_daemon()
    assert process.wait(WAIT_S) == 5
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_begin_is_repeated_with_its_key_and_child(start_daemon, run):
    daemon = start_daemon(tool_begin=[BREAK, refusal("shutting_down"), BEGUN])
    assert run("sh", "-c", "exit 5") == (5, "", "")
    assert daemon.methods() == ["tool.begin"] * 3 + ["tool.end"]
    first, second, third, _ = (request["params"] for request in daemon.requests)
    assert first == second == third
    assert len(daemon.pids) == 3
    assert len(set(daemon.pids)) == 1


def test_a_daemon_that_breaks_every_time_is_given_up(start_daemon, spawn):
    start_daemon(tool_begin=BREAK)
    short = {"AGENTCGROUP_RECONNECT_S": "0.2"}
    runs = [
        spawn("sh", "-c", "exit 5", env=short),
        spawn("--require", "sh", "-c", "exit 5", env=short),
    ]
    assert [process.wait(WAIT_S) for process in runs] == [5, 69]


def test_a_daemon_that_hangs_is_given_up(start_daemon, spawn):
    daemon = start_daemon(tool_begin=SILENT, host_version=SILENT)
    process = spawn("sh", "-c", "exit 5", env={"AGENTCGROUP_RECONNECT_S": "0.2"})
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (5, "")
    assert "does not answer" in err
    assert daemon.methods() == ["tool.begin", "host.version"]


def test_a_queue_is_not_a_hang(start_daemon, spawn):
    released = threading.Event()

    def queued(_: dict[str, Any]) -> dict[str, Any]:
        assert released.wait(WAIT_S)
        return BEGUN

    daemon = start_daemon(tool_begin=queued)
    process = spawn("sh", "-c", "exit 5", env={"AGENTCGROUP_RECONNECT_S": "0.2"})
    daemon.wait_for("host.version", 3)
    released.set()
    assert process.wait(WAIT_S) == 5
    assert daemon.methods()[-1] == "tool.end"


def test_a_daemon_restarted_meanwhile_hears_how_it_ended(start_daemon, spawn):
    resumed = {"result": {"call": {"call": "c1", "state": "running", "session": "s"}}}
    first = start_daemon()
    process = spawn("sh", "-c", "echo ready; read line; exit 5", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    first.close()
    second = start_daemon(tool_resume=resumed)
    second.wait_for("tool.resume")
    second.close()
    process.stdin.write("go\n")
    process.stdin.flush()
    time.sleep(0.1)
    ended = outcome("oom_killed", "told later")
    third = start_daemon(tool_resume={"result": {"call": {"state": "ended", "outcome": ended}}})
    _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (137, "agentcgroup: told later\n")
    key = first.requests[0]["params"]["key"]
    assert second.requests[0]["params"] == {"key": key}
    assert third.requests[-1]["params"] == {"key": key, "exit_code": 5}


def test_a_connection_that_breaks_at_the_end_is_resumed(start_daemon, run):
    daemon = start_daemon(
        tool_end=BREAK, tool_resume={"result": {"call": {"outcome": outcome("timed_out")}}}
    )
    assert run("true")[0] == 124
    assert daemon.methods() == ["tool.begin", "tool.end", "tool.resume"]


def test_a_daemon_that_never_returns_costs_one_line(start_daemon, spawn):
    daemon = start_daemon()
    process = spawn("sh", "-c", "echo ready; read line; exit 5", stdin=subprocess.PIPE,
                    env={"AGENTCGROUP_RECONNECT_S": "0.2"})  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    daemon.close()
    _, err = process.communicate("go\n", timeout=WAIT_S)
    assert process.returncode == 5
    assert "did not come back" in err
    assert len(err.splitlines()) == 1


def test_a_call_that_the_daemon_lost(start_daemon, run):
    daemon = start_daemon(
        tool_end=refusal("not_found", "no such call"), tool_resume=refusal("not_found", "unknown")
    )
    status, _, err = run("sh", "-c", "exit 5")
    assert (status, err) == (5, "agentcgroup: how the call ended is unknown: unknown\n")
    assert daemon.methods() == ["tool.begin", "tool.end", "tool.resume"]


def test_an_answer_in_pieces_among_other_lines(start_daemon, run):
    noise = b'{"jsonrpc":"2.0","method":"event","params":{"id":2,"x":"}"}}\nnot json\n\n'
    start_daemon(noise=noise)
    assert run("sh", "-c", "exit 5") == (5, "", "")
