# SPDX-License-Identifier: Apache-2.0
"""Bad input, by every door: one line with field, value and remedy, the right exit status,
and nothing left behind (no cgroup, socket, process or file)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused, says, unchanged
from forked import Ended, agentcgroup
from harness import PrivateDaemon, until

from agentcgroup.client.steps import in_thread
from agentcgroup.errors import InvalidValueError, RemoteError

pytestmark = pytest.mark.guest

LONG = "n" * 300
INTENTS = [
    # shim options, the intent's fields for the SDK, then words of the one line
    (["--memory", "2GBs"], {"memory": "2GBs"}, ["memory", "'2GBs'", "512M"]),
    (["--memory", "-5M"], {"memory": -5}, ["memory", "-5", "size"]),
    (["--memory", "9" * 400 + ".5"], {"memory": "9" * 400 + ".5"}, ["memory", "999", "512M"]),
    (["--memory", "10K"], {"memory": 10240}, ["memory", "10240", "at least 1M"]),
    (["--memory", "2G", "--memory-max", "1G"], {"memory": "2G", "memory_max": "1G"},
     ["memory_max", "1073741824", "at least memory"]),
    (["--cpu", "0"], {"cpu": 0}, ["cpu", "0", "above 0"]),
    (["--cpu-max", "-2"], {"cpu_max": -2}, ["cpu", "-2", "above 0"]),
    (["--pids-max", "-1"], {"pids_max": -1}, ["pids_max", "-1", "greater than or equal to 1"]),
    (["--pids-max", "many"], {"pids_max": "many"}, ["pids_max", "'many'", "integer"]),
    (["--io-weight", "20000"], {"io_weight": 20000}, ["io_weight", "20000", "10000"]),
    (["--latency", "fast"], {"latency": "fast"}, ["latency", "'fast'", "interactive"]),
    (["--timeout", "soon"], {"timeout_s": "soon"}, ["timeout_s", "'soon'", "90s"]),
    (["--on-exceed", "cry"], {"on_exceed": "cry"}, ["on_exceed", "'cry'", "throttle"]),
    (["--background", "maybe"], {"background": "maybe"}, ["background", "'maybe'", "keep"]),
    (["--label", "l" * 200], {"label": "l" * 200}, ["label", "llll", "at most 128 characters"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as made:
        made.start()
        made.client.create_session("s", memory="256M")
        yield made


def as_admin(daemon: PrivateDaemon, method: str, params: dict[str, Any]) -> None:
    """Past the client's own checks."""
    in_thread(daemon.client._channels.admin.request(method, params))


def on(daemon: PrivateDaemon, *arguments: str) -> Ended:
    return agentcgroup(*arguments, AGENTCGROUP_SOCKET=str(daemon.socket))


# --- intents, by shim and SDK


@pytest.mark.smoke
def test_intents(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """Each wrong field is named by both; the command never runs."""
    mark = tmp_path / "ran"
    with unchanged():
        for options, fields, words in INTENTS:
            shim = daemon.shim("touch", str(mark), session="s", options=options)
            assert shim.wait() == 2, (options, shim.stderr)
            says(shim.stderr, *words)
            shim.outcome_file.unlink(missing_ok=True)
            with pytest.raises(InvalidValueError) as caught:
                daemon.client.run(["touch", str(mark)], fields, session="s")
            assert caught.value.field.startswith("intent.") and caught.value.remedy
            assert all(word in str(caught.value) for word in words), caught.value
    assert not mark.exists()
    assert daemon.orphans() == [] and daemon.client.session("s").queued == 0


def test_unknown_fields_are_refused_by_name(daemon: PrivateDaemon) -> None:
    with unchanged():
        with pytest.raises(InvalidValueError) as caught:
            daemon.client.tool_call({"memroy": "1G"})
        assert caught.value.field == "intent.memroy"
        assert "no such field" in caught.value.remedy and "memory_max" in caught.value.remedy
        shim = daemon.shim("true", session="s", options=["--memroy", "1G"])
        assert shim.wait() == 2
        says(shim.stderr, "--memroy", "no such option", "--help")
        assert not shim.outcome_file.exists()
        # What a client of one's own sends is refused by the daemon, too.
        for params, field in (
            ({"key": "k", "session": "s", "intent": {"memroy": 1}}, "intent.memroy"),
            ({"key": "k", "session": "s", "intent": {"memory": [1]}}, "intent.memory"),
            ({"key": "k", "session": "s", "intent": 5}, "intent"),
            ({"key": "k", "session": "s", "inent": {}}, "inent"),
            ({"session": "s"}, "key"),
        ):
            with pytest.raises(RemoteError) as told:
                as_admin(daemon, "tool.begin", params)
            assert (told.value.kind, told.value.field) == ("invalid_params", field)
            assert told.value.remedy and field in str(told.value)
    assert daemon.client.calls("s", ended=False) == []


def test_what_can_never_fit_is_75(daemon: PrivateDaemon, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with unchanged():
        shim = daemon.shim("touch", str(mark), session="s", options=["--memory", "300M"])
        assert shim.wait() == 75
        says(shim.stderr, "300 MiB", "declare at most")
        assert shim.outcome["reason"] == "refused"
        shim.outcome_file.unlink()
    assert not mark.exists()


# --- sessions


@pytest.mark.long
def test_session_names(daemon: PrivateDaemon) -> None:
    with unchanged():
        for name in ("a/b", "../x", LONG, "", ".", "tools", "a\nb", "-x"):
            remedy = "1 to 64 letters"
            refused(on(daemon, "session", "create", f"--name={name}"), 2, "name", remedy)
            with pytest.raises(InvalidValueError) as caught:
                daemon.client.create_session(name)
            assert caught.value.field == "name" and remedy in caught.value.remedy
            with pytest.raises(RemoteError) as told:
                as_admin(daemon, "session.create", {"name": name})
            assert (told.value.kind, told.value.field) == ("invalid_params", "name")
            shim = daemon.shim("true", options=[f"--session={name}"])
            assert shim.wait() == 2, name
            says(shim.stderr, "session", remedy)
            shim.outcome_file.unlink()
        for verb in ("show", "end"):
            refused(on(daemon, "session", verb, "a\x1b[31mb"), 2, "no session", "session list")
            refused(on(daemon, "session", verb, LONG), 2, "session", "at most 64 characters")
        refused(on(daemon, "session", "create", "--name", "s"), 2, "'s'", "another name")
    assert [session.name for session in daemon.client.sessions()] == ["s"]


@pytest.mark.long
def test_session_budgets(daemon: PrivateDaemon) -> None:
    cases = (
        (["--memory", "900G"], ["memory", "966367641600", "host's budget is", "at most that"]),
        (["--memory", "1M"], ["memory", "1048576", "at least 16M"]),
        (["--memory", "2GBs"], ["memory", "'2GBs'", "512M"]),
        (["--memory=-1G"], ["memory", "'-1G'", "512M"]),
        (["--cpu", "zero"], ["cpu", "'zero'", "0.5 or 2"]),
        (["--pids-max", "1"], ["pids_max", "1", "greater than or equal to 16"]),
        (["--priority", "urgent"], ["priority", "'urgent'", "'high', 'normal' or 'low'"]),
        (["--kind", "beside"], ["kind", "'beside'", "'inside' or 'outside'"]),
        (["--mode", "maybe"], ["mode", "'maybe'", "'observe'"]),
    )
    with unchanged():
        for options, words in cases:
            refused(on(daemon, "session", "create", *options), 2, *words)
            refused(on(daemon, "session", "run", *options, "--", "true"), 2, *words)
        with pytest.raises(RemoteError) as told:
            daemon.client.create_session("r", memory="64M", memory_reserve="60M")
        assert told.value.field == "memory_reserve" and "half" in told.value.remedy
        refused(on(daemon, "session", "update", "s"), 2, "--memory", "--priority")
        refused(on(daemon, "attach", "pid", "999999"), 2, "pid", "999999", "running process")
        refused(on(daemon, "attach", "pid", "1"), 77, "PID 1", "belongs to no session")
        refused(on(daemon, "attach", "pid", "2"), 77, "kernel thread", "belongs to no session")
        refused(on(daemon, "detach", "nowhere"), 2, "'nowhere'", "session list")
        refused(on(daemon, "why", "c-nowhere"), 2, "'c-nowhere'", "a while")
    assert [session.name for session in daemon.client.sessions()] == ["s"]


def test_nobody_answers(tmp_path: Path) -> None:
    absent = str(tmp_path / "none.sock")
    with unchanged(tmp_path):
        refused(agentcgroup("status", AGENTCGROUP_SOCKET=absent), 69, "none", "daemon")
        shown = agentcgroup("run", "--require", "--", "touch", str(tmp_path / "ran"),
                            AGENTCGROUP_SOCKET=absent)  # fmt: skip
        refused(shown, 69, absent, "--require")
        refused(agentcgroup("status", AGENTCGROUP_SOCKET="rel.sock"), 78,
                "AGENTCGROUP_SOCKET", "'rel.sock'", "absolute")  # fmt: skip


@pytest.mark.agents
def test_strangers_are_77(daemon: PrivateDaemon) -> None:
    """uid 1000, in no session: no administrator, and told what to do."""
    shown = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "agentcgroup-run", "--",
         "true"],
        env={**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 77, shown
    assert "in no session" in shown.stderr and "agentcgroup session run" in shown.stderr
    socket = str(daemon.socket)
    for command in (["status"], ["session", "list"], ["session", "create", "--name", "x"],
                    ["session", "end", "s"], ["attach", "pid", "1"]):  # fmt: skip
        ended = agentcgroup(*command, uid=1000, AGENTCGROUP_SOCKET=socket)
        refused(ended, 77, "admin.sock", "agentcgroup")
    refused(agentcgroup("why", "c1", uid=1000, AGENTCGROUP_SOCKET=socket), 77, "in no session")


# --- traces


@pytest.mark.long
def test_traces_without_samples(tmp_path: Path) -> None:
    empty, hollow, broken = (tmp_path / name for name in ("empty", "hollow", "broken"))
    for directory in (empty, hollow, broken):
        directory.mkdir()
    (hollow / "resources.json").write_text('{"samples": []}')
    (broken / "resources.json").write_text("{")
    line = tmp_path / "line.jsonl"
    line.write_text('{"format":"agentcgroup-trace","version":1,"clock":"monotonic","epoch_ns":0}\n')
    out = tmp_path / "out"
    out.mkdir()
    cases = (
        (empty, ["'" + str(empty)[:40], "resources.json"]),
        (hollow, ["samples", "resources.json", "choose a task directory"]),
        (broken, ["resources.json", "must be JSON"]),
        (tmp_path / "none", ["none", "no such file"]),
    )
    with unchanged(tmp_path):
        for trace, words in cases:
            shown = agentcgroup("trace", "import", str(trace), "--out", str(out / "t.jsonl"))
            refused(shown, 78, *words)
            shown = agentcgroup("trace", "replay", str(trace), "--policy", "none",
                                "--total-memory", "256M", "--json", str(out / "r"))  # fmt: skip
            refused(shown, 78, *words)
        shown = agentcgroup("trace", "import", str(line), "--out", str(out / "t.jsonl"))
        refused(shown, 78, "source", "needs no import")
        shown = agentcgroup("trace", "replay", str(line), "--policy", "none",
                            "--total-memory", "256M", "--json", str(out / "r"))  # fmt: skip
        refused(shown, 78, "line.jsonl: samples: cannot use '0'")


# --- clients that go away


def test_a_begin_that_gives_up_leaves_nothing(daemon: PrivateDaemon) -> None:
    """A queued begin ends with its connection; the session is as it was."""
    first = daemon.shim("sleep", "600", session="s", options=["--memory", "150M"])
    call = daemon.call_of(first)
    waiting = daemon.shim("true", session="s", options=["--memory", "150M"])
    until(lambda: daemon.client.session("s").queued == 1, "the second waits")
    waiting.process.kill()
    until(lambda: daemon.client.session("s").queued == 0, "the queue forgets it")
    assert daemon.leaves() == {call}
    first.process.terminate()
    assert first.wait() == 143
    assert daemon.orphans() == []
