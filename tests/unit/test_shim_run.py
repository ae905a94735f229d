# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-run against a real socket: what it sends, and how it exits.

Every test runs the program as shipped (static) and the same sources with sanitizers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from shim_fake import BEGUN, SHIM, WAIT_S, outcome, refusal

pytest_plugins = ["shim_program"]


# ---- what is sent, and the exit status -----------------------------------------------


def test_the_command_runs_as_a_call_with_its_own_status_and_streams(start_daemon, run):
    daemon = start_daemon()
    process = run("--memory", "2G", "--", "sh", "-c", "cat; echo to-err >&2; exit 7",
                  stdin=subprocess.DEVNULL)  # fmt: skip
    assert process == (7, "", "to-err\n")
    begin, end = daemon.requests
    assert begin["params"]["intent"] == {
        "command": "sh -c cat; echo to-err >&2; exit 7",
        "memory": "2G",
    }
    assert len(begin["params"]["key"]) == 32
    assert "session" not in begin["params"]
    assert end["params"] == {"call": "c1", "exit_code": 7}
    assert len(daemon.pids) == 1


def test_every_option_travels_as_text(start_daemon, run):
    daemon = start_daemon()
    options = {
        "--memory": "1G", "--memory-max": "2G", "--swap-max": "0", "--cpu": "2", "--cpu-max": "3",
        "--pids-max": "64", "--io-weight": "50", "--latency": "batch", "--duration": "5m",
        "--timeout": "600", "--on-exceed": "wait", "--max-wait": "9", "--background": "keep",
        "--label": 'ä"\\', "--retry-of": "c0",
    }  # fmt: skip
    flat = [part for option in options.items() for part in option]
    assert run("--session", "s7", *flat, "--require", "--", "true")[0] == 0
    params = daemon.requests[0]["params"]
    assert params["session"] == "s7"
    renamed = {"duration": "duration_s", "timeout": "timeout_s", "max_wait": "max_wait_s"}
    names = [name[2:].replace("-", "_") for name in options]
    assert params["intent"] == {
        "command": "true",
        **dict(zip([renamed.get(n, n) for n in names], options.values(), strict=True)),
    }


TELL = 'echo "$AGENTCGROUP_CPUS $AGENTCGROUP_MEMORY $OTHER"'


@pytest.mark.parametrize(
    ("limits", "inherited", "told"),
    [
        ({"memory_max_bytes": 2 << 30, "cpu_max_cores": 2.5}, {}, f"2 {2 << 30}"),
        ({"memory_max_bytes": 2 << 30, "cpu_max_cores": 0.5},
         {"AGENTCGROUP_CPUS": "4", "AGENTCGROUP_MEMORY": "7"}, f"1 {2 << 30}"),
        ({"memory_max_bytes": None, "cpu_max_cores": None},
         {"AGENTCGROUP_CPUS": "4", "AGENTCGROUP_MEMORY": "7"}, "4 7"),
        ({}, {}, f"{len(os.sched_getaffinity(0))} "),
    ],
)  # fmt: skip
def test_the_command_is_told_what_it_may_use(start_daemon, run, limits, inherited, told):
    start_daemon(tool_begin={"result": {"call": "c1", "session": "s", "limits": limits}})
    env = {**inherited, "OTHER": "kept"}
    assert run("--", "sh", "-c", TELL, env=env) == (0, f"{told} kept\n", "")


def test_unmanaged_it_keeps_what_it_inherited(run):
    status, out, _ = run("--", "sh", "-c", TELL, env={"AGENTCGROUP_CPUS": "4"})
    assert (status, out) == (0, "4  \n")


def test_the_intent_is_one_the_daemon_takes(start_daemon, run):
    from agentcgroup.protocol.messages import METHODS
    from agentcgroup.types.validation import parse

    daemon = start_daemon()
    long = "x" * 5000
    assert run("--memory=512M", "--cpu=0.5", "--timeout=1.5m", "--pids-max=9", "true", long)[0] == 0
    for request in daemon.requests:
        parse(METHODS[request["method"]].params, request["params"])


def test_bytes_that_are_not_utf8_are_replaced(start_daemon, program, tmp_path):
    daemon = start_daemon()
    environment = {**os.environ, "AGENTCGROUP_SOCKET": str(tmp_path / "agent" / "agent.sock")}
    subprocess.run([program, b"true", b"a\xff\xc3(\xed\xa0\x80\x01"], env=environment, check=True)
    assert daemon.requests[0]["params"]["intent"]["command"] == "true a\ufffd\ufffd(" + (
        "\ufffd" * 3 + "\x01"
    )


def test_the_pidfd_is_the_waiting_child_that_becomes_the_command(start_daemon, run):
    def check(_: dict[str, Any]) -> dict[str, Any]:
        seen.append(Path(f"/proc/{daemon.pids[0]}/cmdline").read_bytes())
        return BEGUN

    seen: list[bytes] = []
    daemon = start_daemon(tool_begin=check)
    status, out, _ = run("sh", "-c", "echo $$")
    assert status == 0
    assert int(out) == daemon.pids[0]
    assert b"agentcgroup-run" in seen[0]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("completed", 3), ("failed", 3), ("lost", 3), ("oom_killed", 137), ("timed_out", 124),
        ("killed_by_policy", 137), ("stopped_by_supervisor", 143), ("refused", 75),
        ("a_reason_of_the_future", 3),
    ],
)  # fmt: skip
def test_the_reason_decides_the_status(start_daemon, run, reason, expected):
    start_daemon(tool_end={"result": {"outcome": outcome(reason)}})
    assert run("sh", "-c", "exit 3")[0] == expected


def test_death_by_signal_is_128_plus_its_number(start_daemon, run):
    daemon = start_daemon()
    assert run("sh", "-c", "kill -SEGV $$")[0] == 128 + signal.SIGSEGV
    assert daemon.requests[-1]["params"] == {"call": "c1", "signal": int(signal.SIGSEGV)}


def test_the_message_comes_after_the_output_without_control_characters(start_daemon, run, tmp_path):
    message = "Killed at 2 GiB.\nTry `--memory 4G` \x1b[31m\x9b.\n"
    start_daemon(tool_end={"result": {"outcome": outcome("oom_killed", message, signal=9)}})
    file = tmp_path / "outcome.json"
    status, _, err = run("--json-outcome", str(file), "sh", "-c", "echo last words >&2")
    assert status == 137
    assert err == (
        "last words\nagentcgroup: Killed at 2 GiB.\nagentcgroup: Try `--memory 4G` ?[31m?.\n"
    )
    assert json.loads(file.read_text()) == outcome("oom_killed", message, signal=9)


def test_commands_that_cannot_be_executed(start_daemon, run, tmp_path):
    daemon = start_daemon()
    plain = tmp_path / "plain"
    plain.write_text("exit 5\n")
    assert run("no-such-command")[::2] == (127, "agentcgroup: no-such-command: command not found\n")
    assert run(str(plain))[::2] == (126, f"agentcgroup: {plain}: permission denied\n")
    assert run("./missing/file")[0] == 127
    plain.chmod(0o755)  # no "#!": a script for sh, as every shell does it
    assert run("plain", env={"PATH": f"/nowhere::{tmp_path}:{os.environ['PATH']}"})[0] == 5
    ends = [r["params"]["exit_code"] for r in daemon.requests if r["method"] == "tool.end"]
    assert ends == [127, 126, 127, 5]


def test_nothing_of_the_program_leaks_into_the_command(start_daemon, run):
    start_daemon()
    before = subprocess.run(
        ["ls", "/proc/self/fd"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        check=True,
    ).stdout  # fmt: skip
    assert run("ls", "/proc/self/fd", stdin=subprocess.DEVNULL)[1] == before
    signals = ("SigBlk", "SigIgn")
    script = "import signal;signal.pthread_sigmask(0,[10]);signal.signal(17,signal.SIG_IGN);"
    script += "import os,sys;os.execvp(sys.argv[1],sys.argv[1:])"

    def lines(*command: str) -> list[str]:
        out = run("python3", "-c", script, *command)[1]
        return [line for line in out.splitlines() if line.startswith(signals)]

    shown = ["grep", "Sig", "/proc/self/status"]
    assert lines(str(SHIM / ".output" / "agentcgroup-run"), *shown) == lines(*shown) != []


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_closed_standard_stream_stays_closed(start_daemon, spawn, program, tmp_path, fd):
    start_daemon()
    file = tmp_path / "fds"
    listing = f"sh -c 'ls /proc/self/fd > {file}' {fd}<&-"
    subprocess.run(["sh", "-c", listing], check=True)
    expected = file.read_text()
    file.unlink()
    environment = {**os.environ, "AGENTCGROUP_SOCKET": str(tmp_path / "agent" / "agent.sock")}
    subprocess.run(["sh", "-c", f"{program} {listing}"], check=True, env=environment)
    assert file.read_text() == expected


# ---- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("invalid_params", 2), ("not_found", 2), ("refused", 75), ("wait_timeout", 75),
        ("over_budget", 75), ("too_many", 75), ("not_permitted", 77), ("target_refused", 77),
        ("no_session", 77), ("not_supported", 78), ("no_identity", 78),
    ],
)  # fmt: skip
def test_a_refused_begin_runs_nothing(start_daemon, run, tmp_path, kind, expected):
    daemon = start_daemon(tool_begin=refusal(kind, "cannot do it", "try less"))
    ran, file = tmp_path / "ran", tmp_path / "outcome"
    status, _, err = run("--json-outcome", str(file), "touch", str(ran))
    assert (status, err) == (expected, "agentcgroup: cannot do it; try less\n")
    assert not ran.exists()
    assert not Path(f"/proc/{daemon.pids[0]}").exists()
    written = json.loads(file.read_text())
    refused = {"call": "", "session": "", "reason": "refused", "message": "cannot do it"}
    assert written == (refused if expected == 75 else None)


def test_a_remedy_is_not_said_twice(start_daemon, run):
    start_daemon(tool_begin=refusal("invalid_params", "memory: cannot use 'x': 2G", "2G"))
    assert run("--label", "x", "true")[::2] == (2, "agentcgroup: memory: cannot use 'x': 2G\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--"], ["--memory"], ["--frob", "x", "true"], ["--memory", "x" * 1025, "true"],
     ["--json-outcome", "/no/such/dir/file", "true"], ["--hold-fd", "77", "true"],
     ["--hold-fd", "1x", "true"]],
)  # fmt: skip
def test_wrong_usage_is_2(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("agentcgroup: ")
    assert len(err.splitlines()) == 1


def test_help(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert all(option in out for option in ("--memory-max", "--hold-fd", "--json-outcome"))


@pytest.mark.parametrize("path", ["/" + "x" * 107, "relative/agent.sock"])
def test_a_socket_path_that_cannot_be_one(run, path):
    assert run("true", env={"AGENTCGROUP_SOCKET": path})[0] == 78


def test_a_reconnect_time_that_is_no_number(run):
    assert run("true", env={"AGENTCGROUP_RECONNECT_S": "soon"})[0] == 78


# ---- the two sockets -----------------------------------------------------------------


def test_outside_any_session_the_admin_socket_begins_it(start_daemon, run):
    agent = start_daemon(tool_begin=refusal("no_session"))
    admin = start_daemon("admin.sock")
    assert run("true") == (0, "", "")
    assert agent.methods() == ["tool.begin"]
    assert admin.methods() == ["tool.begin", "tool.end"]
    assert agent.requests[0]["params"] == admin.requests[0]["params"]


def test_another_session_is_asked_of_the_admin_socket(start_daemon, run):
    start_daemon(tool_begin=refusal("not_permitted", "that is not your session"))
    admin = start_daemon("admin.sock", tool_begin=refusal("invalid_params", "the admin's word"))
    assert run("--session", "other", "true")[::2] == (2, "agentcgroup: the admin's word\n")
    assert admin.requests[0]["params"]["session"] == "other"


def test_the_first_refusal_is_shown_when_the_admin_socket_will_not_have_us(start_daemon, run):
    start_daemon(tool_begin=refusal("no_session", "no session here", "enter one"))
    start_daemon("admin.sock", tool_begin=refusal("not_permitted", "administrators only"))
    assert run("true")[::2] == (77, "agentcgroup: no session here; enter one\n")


@pytest.mark.parametrize(
    "name", ["agent/agent.sock", "agent/other", "b.sock", "b", "admin.sock", "x.admin.sock"]
)
def test_the_admin_socket_is_where_the_daemon_puts_it(start_daemon, run, tmp_path, name):
    from agentcgroup.protocol.sockets import admin_socket_path

    named = str(tmp_path / name)
    admin = start_daemon(str(Path(admin_socket_path(named)).relative_to(tmp_path)))
    assert run("true", env={"AGENTCGROUP_SOCKET": named})[0] == 0
    assert admin.methods() == ["tool.begin", "tool.end"]


# ---- --hold-fd -----------------------------------------------------------------------


def test_hold_fd_waits_for_one_byte(spawn):
    read_end, write_end = os.pipe()
    closed = f"test ! -e /proc/self/fd/{read_end} && exit 5"
    process = spawn("--hold-fd", str(read_end), "--", "sh", "-c", closed, pass_fds=[read_end])
    time.sleep(0.05)
    assert process.poll() is None
    os.write(write_end, b"x")
    assert process.wait(WAIT_S) == 5
    os.close(read_end)
    os.close(write_end)


def test_hold_fd_that_closes_runs_nothing(spawn, tmp_path):
    read_end, write_end = os.pipe()
    process = spawn("--hold-fd", str(read_end), "touch", str(tmp_path / "ran"), pass_fds=[read_end])
    os.close(read_end)
    os.close(write_end)
    assert process.wait(WAIT_S) == 125
    assert not (tmp_path / "ran").exists()
