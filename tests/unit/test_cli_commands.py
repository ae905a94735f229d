# SPDX-License-Identifier: Apache-2.0
"""The command line against a fake daemon: what is asked, printed, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_fake import ROOT, Run, answer
from client_fake_daemon import FakeDaemon, session_info

from agentcgroup.cli import app as cli_app
from agentcgroup.client import endpoint as endpoints
from agentcgroup.protocol.errors import Kind
from agentcgroup.protocol.messages import METHODS

pytest_plugins = ["cli_fixtures"]


def commands(app: Any) -> dict[str, Any]:
    """Every command with its full name."""
    import typer

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if not children:
            yield name, command
            return
        for child_name, child_command in children.items():
            yield from walk(child_command, f"{name} {child_name}".strip())

    return dict(walk(typer.main.get_command(app), ""))


def all_commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in ("trace", "daemon", "supervisor"):
        found |= commands(cli_app.build_app([family]))
    return found


def test_every_command_is_documented_and_has_help() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = all_commands()
    assert {"run", "session run", "attach pid", "config check", "trace compare"} <= set(found)
    assert {f"supervisor {verb}" for verb in ("train", "calibrate", "evaluate")} <= set(found)
    for name, command in found.items():
        assert f"agentcgroup {name}" in text, name
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert parameter.help, f"{name} {parameter.name}"
    told = {
        line.split("agentcgroup ", 1)[1].split("`")[0].split(" [")[0].split(" -- ")[0]
        for line in text.splitlines()
        if line.startswith(("### `agentcgroup ", "| `agentcgroup "))
    }
    known = set(found) | {"trace"}
    assert all(any(name.startswith(k) for k in known) for name in told), told


def test_options_of_session_and_run_are_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in all_commands().items():
        if name.startswith("trace"):
            continue
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in text, f"{name} {option}"


def test_help_of_lazy_families_is_their_own() -> None:
    from agentcgroup.cli.daemon import daemon as daemon_command
    from agentcgroup.cli.supervisor import app as supervisor_app
    from agentcgroup.cli.trace import app as trace_app

    assert (daemon_command.__doc__ or "").splitlines()[0] == cli_app.DAEMON_HELP
    assert trace_app.info.help == cli_app.TRACE_HELP
    assert supervisor_app.info.help == cli_app.SUPERVISOR_HELP
    assert "trace" in commands(cli_app.build_app())


def test_help_loads_neither_daemon_nor_sdk() -> None:
    code = "import sys; from agentcgroup.cli.main import main\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    loaded = set(shown.split())
    assert "typer" in loaded
    assert not loaded & {"pydantic", "asyncio", "agentcgroup.daemon", "agentcgroup.replay"}


def test_session_list_and_show(daemon: FakeDaemon, run: Run) -> None:
    record = session_info("alice", memory_bytes=4 << 30, granted_bytes=1 << 29, calls=["c-1"])
    answer(daemon, "session.list", {"sessions": [record]})
    answer(daemon, "session.get", {"session": record})
    status, out, _ = run("session", "list", "--json")
    listed = json.loads(out)["sessions"]
    assert status == 0 and listed[0]["name"] == "alice" and listed[0]["memory_bytes"] == 4 << 30
    _, out, _ = run("session", "list")
    assert "alice" in out and "4 GiB" in out and "512 MiB" in out
    _, out, _ = run("session", "show", "alice", "--json")
    assert json.loads(out)["session"]["calls"] == ["c-1"]
    _, out, _ = run("session", "show", "alice")
    assert "containment reason  runs as root" in out


def test_session_create_update_end_detach(daemon: FakeDaemon, run: Run) -> None:
    record = {"session": session_info("bob")}
    for method in ("create", "update", "detach", "adopt"):
        answer(daemon, f"session.{method}", record)
    outcome = {"call": "c-1", "session": "bob", "reason": "killed_by_policy"}
    answer(daemon, "session.end", {"session": "bob", "outcomes": [outcome]})
    assert run("session", "create", "--name", "bob", "--memory", "4G", "--cpu", "2")[0] == 0
    assert run("session", "update", "bob", "--priority", "low")[0] == 0
    assert run("attach", "pid", str(os.getpid()), "--kind", "outside", "--stop-agent")[0] == 0
    assert run("detach", "bob")[1] == "session bob detached\n"
    assert run("session", "end", "bob")[1] == "session bob ended\nc-1: killed_by_policy\n"
    assert daemon.params("session.create") == [{"name": "bob", "memory": 4 << 30, "cpu": 2.0}]
    assert daemon.params("session.update") == [{"session": "bob", "priority": "low"}]
    assert daemon.requests[-3][3] is None
    (adopted,) = [pid for _, method, _, pid in daemon.requests if method == "session.adopt"]
    assert adopted == os.getpid()
    assert daemon.params("session.adopt") == [{"kind": "outside", "stop_agent": True}]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("session", "create", "--memory", "2GBs"), "memory"),
        (("session", "create", "--name", "a/b"), "name"),
        (("session", "create", "--name", "x" * 300), "name"),
        (("session", "create", "--memory", "-1"), "memory"),
        (("session", "update", "a"), "options"),
        (("run", "--memory", "2G", "--memory-max", "1G", "--", "true"), "intent.memory_max"),
        (("run", "--latency", "fast", "--", "true"), "intent.latency"),
        (("attach", "pid", "4194305"), "pid"),
    ],
)
def test_bad_values_are_usage_errors(
    daemon: FakeDaemon, run: Run, arguments: tuple[str, ...], field: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"agentcgroup: {field}: cannot use") and err.count("\n") == 1
    assert daemon.methods() == []


def test_usage_errors_of_the_parser(run: Run) -> None:
    assert run("no-such-command")[0] == 2
    assert run("why")[0] == 2
    assert run("status", "--no-such-option")[0] == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Kind.NOT_PERMITTED, 77), (Kind.NO_SESSION, 77), (Kind.OVER_BUDGET, 75),
        (Kind.ALREADY_EXISTS, 2), (Kind.NOT_SUPPORTED, 78), (Kind.NOT_FOUND, 2),
        (Kind.INTERNAL, 1),
    ],
)  # fmt: skip
def test_refusals_become_exit_codes(daemon: FakeDaemon, run: Run, kind: Kind, status: int) -> None:
    daemon.refuse("session.create", kind, remedy="do this\ninstead")
    code, _, err = run("session", "create")
    assert (code, err) == (status, "agentcgroup: cannot do session.create: do this instead\n")


def test_absent_daemon_is_69(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "RETRY_S", 0.0)
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "agent" / "x.sock"))
    status, _, err = run("status")
    assert status == 69 and "start agentcgroupd" in err


def test_why_tells_in_words_and_in_json(daemon: FakeDaemon, run: Run) -> None:
    daemon.outcomes["c-1"] = {
        "call": "c-1", "session": "alice", "reason": "oom_killed", "level": "call",
        "command": "pytest\x1b[31m", "peak_memory_bytes": 2 << 30, "memory_limit_bytes": 2 << 30,
        "cpu_s": 12.5, "waited_ms": 1500.0, "signal": 9, "message": "It needed more than 2 GiB.",
        "biggest_process": {"pid": 4, "command": "python", "rss_bytes": 1 << 30},
        "retry": {"worthwhile": True, "intent": {"memory": "3G"}},
    }  # fmt: skip
    status, out, _ = run("why", "c-1", "--json")
    told = json.loads(out)
    assert (status, told["reason"], told["level"]) == (0, "oom_killed", "call")
    assert told["biggest_process"]["rss_bytes"] == 1 << 30
    _, out, _ = run("why", "c-1")
    assert "c-1 in session alice was killed because memory ran out (its own limit)." in out
    assert "It needed more than 2 GiB." in out
    assert "\x1b" not in out
    assert 'Worth trying again with: {"memory": "3G"}' in out
    assert "peak memory   2 GiB" in out and "waited        1.5 s" in out


def test_why_of_a_running_and_of_no_call(daemon: FakeDaemon, run: Run) -> None:
    answer(daemon, "tool.get", {"call": {"call": "c-2", "session": "s", "state": "frozen",
                                         "memory_current_bytes": 4096}})  # fmt: skip
    assert "c-2 in session s is frozen." in run("why", "c-2")[1]
    assert json.loads(run("why", "c-2", "--json")[1])["state"] == "frozen"
    del daemon.handlers["tool.get"]
    status, _, err = run("why", "c-9")
    assert (status, err) == (2, "agentcgroup: no such call: list them\n")


def test_status(daemon: FakeDaemon, run: Run) -> None:
    report = {
        "version": "0.1.0", "pid": 7, "mode": "observe", "uptime_s": 3.5,
        "host": {"budget_bytes": 1 << 30}, "layers": {"memory": ["files", "events"]},
        "missing": {"bpf": "no libbpf"}, "sessions": [session_info("alice")],
    }  # fmt: skip
    answer(daemon, "host.status", report)
    assert json.loads(run("status", "--json")[1]) == report
    _, out, _ = run("status")
    for part in ("observe", "budget 1 GiB", "files, events", "bpf: no libbpf", "alice"):
        assert part in out


def test_events(daemon: FakeDaemon, run: Run) -> None:
    daemon.notifications = [
        {"t_ns": 1_500_000_000, "kind": "call_begin", "session": "s", "call": "c-1", "x": 1}
    ]
    daemon.handlers["events.subscribe"] = lambda _p, _f: (
        daemon.handlers.clear() or {"subscribed": True}
    )
    code = (
        f"from agentcgroup.cli.main import main; import sys; sys.argv[1:] = {['events']!r}; main()"
    )
    for arguments, expected in (
        ([], '1.500 call_begin s/c-1                    {"x": 1}'),
        (["--json"], json.dumps(daemon.notifications[0])),
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", code.replace("['events']", repr(["events", *arguments]))],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert process.stdout.readline().rstrip("\n") == expected
            process.terminate()


def test_config_check(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('[daemon]\nmode = "observe"\n')
    bad.write_text('[daemon]\nmod = "observe"\n')
    assert run("config", "check", str(good))[1] == f"{good}: ok\n"
    assert json.loads(run("config", "check", str(good), "--json")[1])["daemon"]["mode"] == "observe"
    status, _, err = run("config", "check", str(bad))
    assert status == 78 and err.startswith("agentcgroup: daemon.mod: cannot use 'observe'")


def test_protocol(run: Run) -> None:
    _, out, _ = run("protocol")
    assert all(name in out for name in METHODS)
    schema = json.loads(run("protocol", "--json-schema")[1])
    assert list(schema["methods"]) == list(METHODS)
    assert schema["error_kinds"] == [kind.value for kind in Kind]


def test_doctor_asks_the_daemon(daemon: FakeDaemon, run: Run) -> None:
    found = [
        {"name": "memory.high", "answer": "yes", "reason": "seen"},
        {"name": "io.weight", "answer": "no", "reason": "no effect"},
    ]
    answer(daemon, "host.probe", {"capabilities": found})
    report = json.loads(run("doctor", "--json")[1])
    assert report["source"] == "daemon"
    by_name = {c["name"]: c for c in report["capabilities"]}
    assert by_name["memory.high"]["remedy"] == ""
    assert by_name["io.weight"]["remedy"]
    assert by_name["daemon"]["answer"] == "yes"
    assert "io.weight" in run("doctor")[1]


def test_doctor_without_daemon_probes_from_here(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "x.sock"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = json.loads(run("doctor", "--json")[1])
    by_name = {c["name"]: c for c in report["capabilities"]}
    assert report["source"] == "local"
    assert by_name["daemon"]["answer"] == "no"
    assert {"SO_PEERPIDFD", "cgroup2", "libbpf", "agentcgroup-run"} <= set(by_name)
    assert all(c["remedy"] for c in by_name.values() if c["answer"] != "yes")


def test_missing_extra_is_one_line() -> None:
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['agentcgroup', 'status']\n"
        "from agentcgroup.cli.main import main; main()\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert shown.returncode == 78
    assert shown.stderr == (
        "agentcgroup: this command needs the extra 'host': pip install 'agentcgroup[host]'\n"
    )
