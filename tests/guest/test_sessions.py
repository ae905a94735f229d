# SPDX-License-Identifier: Apache-2.0
"""Sessions of both kinds: who belongs to them, what can be changed, what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import CGROUPFS, agentcgroup, contents
from harness import PrivateDaemon, alive, read_value, until
from session_agent import agent, where

from agentcgroup.errors import InvalidValueError, RemoteError

pytestmark = pytest.mark.guest

MIB = 1 << 20
HOLD = "x = bytearray({mib} << 20); x[::4096] = b'x' * len(x[::4096]); print(1, flush=True);"
HOLD += "import time; time.sleep(600)"
DAEMONIZE = "(setsid sleep 600 >/dev/null 2>&1 & echo $!)"


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as made:
        yield made.start()


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: PrivateDaemon) -> Iterator[None]:
    """Every session that a test made is gone without a trace, whoever ended it."""
    before = contents(daemon.root)
    yield
    for session in daemon.client.sessions():
        daemon.client.end_session(session.name)
    assert contents(daemon.root) == before


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that everybody may reach."""
    directory = Path("/run/agents")
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    made = directory / tmp_path_factory.mktemp("x").name
    made.mkdir(exist_ok=True)
    return made


def on(daemon: PrivateDaemon, *arguments: str) -> Any:
    shown = agentcgroup(*arguments, "--json", AGENTCGROUP_SOCKET=str(daemon.socket))
    assert shown.status == 0, shown.stderr
    return json.loads(shown.stdout)


def tree(daemon: PrivateDaemon, *parts: str) -> str:
    return "/".join(("", daemon.root.name, *parts))


# --- both kinds


@pytest.mark.agents
def test_outside_agent_is_bound_by_pidfd(daemon: PrivateDaemon, place: Path) -> None:
    """It stays where it is; its children's calls are its session's, another's are not."""
    with agent(daemon, place) as mine:
        origin = mine.where()
        assert mine.run("agentcgroup-run -- true")[0] == 77
        info = daemon.client.create_session("out", memory="200M", kind="outside", pidfd=mine.pidfd)
        assert (info.kind, info.agent_pids, info.containment) == ("outside", [mine.pid], "enforced")
        assert mine.where() == origin
        # The shim is a grandchild: bound is the agent with all that it starts.
        status, told = mine.run("agentcgroup-run --label mine -- cat /proc/self/cgroup")
        assert status == 0, told
        assert told.startswith(f"0::{tree(daemon, 'out', 'tools')}/c")
        (call,) = daemon.client.calls("out")
        assert (call.label, call.state) == ("mine", "ended")
        # Named or not, it is its own session only.
        daemon.client.create_session("other", memory="64M")
        status, told = mine.run("agentcgroup-run --session other -- true")
        assert status == 77 and "only your own session" in told, told
        daemon.client.end_session("other")
    until(lambda: daemon.client.session("out").calls == [], "no call is left")
    assert daemon.client.session("out").kind == "outside"  # it does not end with its agent


@pytest.mark.agents
def test_inside_agent_is_moved(daemon: PrivateDaemon, place: Path) -> None:
    with agent(daemon, place) as mine:
        info = daemon.client.create_session("in", memory="200M", pidfd=mine.pidfd)
        assert mine.where() == tree(daemon, "in", "agent")
        assert (info.kind, info.agent_pids) == ("inside", [mine.pid])
        assert info.memory_reserve_bytes == 50 * MIB
        assert read_value(daemon.root / "in" / "tools", "memory.max") == str(150 * MIB)
        status, told = mine.run("agentcgroup-run -- cat /proc/self/cgroup")
        assert status == 0 and told.startswith(f"0::{tree(daemon, 'in', 'tools')}/c")
        # A second begin from within a call stays in that call.
        status, told = mine.run("agentcgroup-run -- agentcgroup-run -- cat /proc/self/cgroup")
        assert status == 0 and told.startswith(f"0::{tree(daemon, 'in', 'tools')}/c"), told
        ended = daemon.client.end_session("in")
        assert ended.session == "in"
        until(lambda: not alive(mine.pid), "the agent inside ends with its session")


def test_an_agent_that_is_taken_is_refused(daemon: PrivateDaemon, place: Path) -> None:
    with agent(daemon, place) as mine:
        daemon.client.create_session("one", memory="64M", pidfd=mine.pidfd)
        with pytest.raises(RemoteError) as caught:
            daemon.client.create_session("two", memory="64M", pidfd=mine.pidfd)
        assert caught.value.kind == "target_refused" and "session already" in str(caught.value)
        assert [s.name for s in daemon.client.sessions()] == ["one"]
        daemon.client.end_session("one")


@pytest.mark.agents
def test_ephemeral_sessions_end_with_their_agent(daemon: PrivateDaemon, place: Path) -> None:
    for kind in ("inside", "outside"):
        with agent(daemon, place) as mine:
            daemon.client.create_session(
                f"brief-{kind}", memory="128M", kind=kind, ephemeral=True, pidfd=mine.pidfd
            )
            mine.start("agentcgroup-run -- sleep 600")
            session = f"brief-{kind}"
            until(lambda s=session: daemon.client.session(s).calls, "its call runs")  # type: ignore[misc]
        until(lambda: not daemon.client.sessions(), "it ends with its agent", daemon.log_text)
    assert daemon.orphans() == []


# --- changing them


def test_update(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("u", memory="256M")
    room = daemon.root / "u"
    assert read_value(room, "cpu.weight") == "100"
    shim = daemon.shim(sys.executable, "-c", HOLD.format(mib=100), session="u",
                       options=["--memory", "128M"])  # fmt: skip
    leaf = daemon.leaf(daemon.call_of(shim))
    assert shim.process.stdout is not None and shim.process.stdout.readline()
    weight = int(read_value(leaf, "cpu.weight"))
    told = on(daemon, "session", "update", "u", "--priority", "high", "--cpu", "1.5")["session"]
    assert (told["priority"], told["cpu"]) == ("high", 1.5)
    assert read_value(room, "cpu.weight") == "400"
    assert read_value(room, "cpu.max") == "150000 100000"
    assert int(read_value(leaf, "cpu.weight")) == 4 * weight
    # Less than what is held would be a kill: refused, and nothing has changed.
    files = ("memory.max", "cpu.max", "pids.max")
    before = {name: read_value(room, name) for name in files}
    for memory in ("64M", "110M"):
        shown = agentcgroup("session", "update", "u", "--memory", memory, "--priority", "low",
                            AGENTCGROUP_SOCKET=str(daemon.socket))  # fmt: skip
        assert shown.status == 2 and "memory" in shown.stderr, shown
        assert "end tool calls first" in shown.stderr and shown.stderr.count("\n") == 1
    assert {name: read_value(room, name) for name in files} == before
    assert daemon.client.session("u").priority == "high"
    assert daemon.client.session("u").memory_bytes == 256 * MIB
    more = daemon.client.update_session("u", memory="512M", pids_max=100)
    assert (more.memory_bytes, more.pids_max) == (512 * MIB, 100)
    assert read_value(room, "memory.max") == str(512 * MIB)
    assert alive(shim.child_pid or 0)
    shim.process.terminate()
    assert shim.wait() == 143
    less = daemon.client.update_session("u", memory="64M")
    assert read_value(room, "memory.max") == str(less.memory_bytes) == str(64 * MIB)


def test_update_beyond_the_host_changes_nothing(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("u", memory="64M")
    for fields in ({"memory": "900G"}, {"memory": "1M"}, {"memory_reserve": "63M"}):
        with pytest.raises(RemoteError) as caught:
            daemon.client.update_session("u", **fields)
        assert caught.value.field in fields and caught.value.remedy
    with pytest.raises(InvalidValueError):
        daemon.client.update_session("u", priority="urgent")
    assert read_value(daemon.root / "u", "memory.max") == str(64 * MIB)


# --- attach and detach


def procs(cgroup: Path) -> set[int]:
    return {int(pid) for pid in read_value(cgroup, "cgroup.procs").split()}


@pytest.mark.agents
def test_detach_gives_processes_back(daemon: PrivateDaemon, place: Path) -> None:
    origin = CGROUPFS / "origin"
    origin.mkdir(exist_ok=True)
    try:
        with agent(daemon, place, origin) as mine:
            mine.start("sleep 600")
            before = until(lambda: len(found := procs(origin)) >= 2 and found, "both are there")
            on(daemon, "attach", "pid", str(mine.pid), "--name", "a", "--memory", "200M")
            assert mine.where() == tree(daemon, "a", "agent")
            mine.start("agentcgroup-run -- sleep 600")
            (call,) = until(lambda: daemon.client.session("a").calls, "its call runs")
            # The shell that the boundary saw became the shim; the command comes a moment later.
            until(lambda: len(procs(daemon.leaf(call))) == 2, "shim and command are in its leaf")
            runners = procs(daemon.leaf(call))
            on(daemon, "detach", "a")
            assert {mine.where(), *map(where, runners)} == {"/origin"}
            assert all(alive(pid) and where(pid) == "/origin" for pid in before)
            assert daemon.client.sessions() == [] and not (daemon.root / "a").exists()
            assert daemon.client.status()["host"]["free_bytes"] > 0
            # The call's command runs on without limits, and ends as it would have.
            assert mine.run("true")[0] == 0
            for pid in runners:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15)
            until(lambda: not any(map(alive, runners)), "the command ends")
        assert daemon.client.version().version
        (origin / "cgroup.kill").write_text("1")
        until(lambda: "populated 0" in read_value(origin, "cgroup.events"), "all have ended")
    finally:
        origin.rmdir()


def test_a_call_outlives_the_detach_of_its_session(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """The shim exits as its command does and says that nobody watched the end."""
    daemon.client.create_session("d", memory="200M")
    go = tmp_path / "go"
    script = f"while [ ! -e {go} ]; do sleep 0.05; done; echo done; exit 5"
    shim = daemon.shim("sh", "-c", script, session="d")
    call = daemon.call_of(shim)
    queued = daemon.shim("true", session="d", options=["--memory", "180M"])
    daemon.client.detach("d")
    assert queued.wait() in (0, 2, 75), queued.stderr
    go.touch()
    assert shim.wait() == 5, shim.stderr
    assert shim.stdout == "done\n"
    assert "unknown" in shim.stderr and shim.stderr.count("\n") == 1, shim.stderr
    with pytest.raises(RemoteError) as caught:
        daemon.client.call(call)
    assert caught.value.kind == "not_found" and "detached" in caught.value.remedy


# --- what runs in them


def test_background_processes_are_listed_and_end_with_the_session(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("b", memory="128M")
    kept = []
    for _ in range(2):
        shim = daemon.shim("sh", "-c", DAEMONIZE, session="b", options=["--background", "keep"])
        assert shim.wait() == 0
        pid = int(shim.stdout)
        assert shim.outcome["background_pids"] == [pid]
        kept.append(pid)
    shown = on(daemon, "session", "show", "b")["session"]
    assert sorted(shown["background_pids"]) == sorted(kept)
    assert {where(pid) for pid in kept} == {tree(daemon, "b", "tools", "background")}
    assert all(alive(pid) for pid in kept)
    on(daemon, "session", "end", "b")
    until(lambda: not any(alive(pid) for pid in kept), "they end with the session")
    assert not (daemon.root / "b").exists()


def test_end_kills_what_runs_and_says_so(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("e", memory="256M")
    shims = [daemon.shim("sleep", "600", session="e", options=["--memory", "90M"])
             for _ in range(2)]  # fmt: skip
    calls = {daemon.call_of(shim) for shim in shims}
    queued = daemon.shim("true", session="e", options=["--memory", "180M"])
    until(lambda: daemon.client.session("e").queued == 1, "one waits")
    ended = on(daemon, "session", "end", "e")
    assert {o["call"] for o in ended["outcomes"]} == calls
    assert all(o["reason"] == "killed_by_policy" for o in ended["outcomes"])
    for shim in shims:
        assert shim.wait() == 137
        assert shim.outcome["reason"] == "killed_by_policy" and "session" in shim.stderr
    assert queued.wait() == 75
    assert "the session ended" in queued.stderr and "another session" in queued.stderr
    assert daemon.client.sessions() == []


@pytest.mark.smoke
def test_list_and_why(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("l", memory="200M")
    for code in (0, 3):
        shim = daemon.shim("sh", "-c", f"exit {code}", session="l", options=["--label", f"c{code}"])
        assert shim.wait() == code
    running, names = [], []
    for _ in range(2):
        running.append(daemon.shim("sleep", "600", session="l", options=["--memory", "32M"]))
        names.append(daemon.call_of(running[-1]))
    listed = daemon.client.calls("l")
    assert [c.call for c in listed[:2]] == names[::-1]  # newest first
    assert [c.label for c in listed[2:]] == ["c3", "c0"]
    assert [c.state for c in listed] == ["running", "running", "ended", "ended"]
    assert len(daemon.client.calls("l", limit=3)) == 3
    assert [c.call for c in daemon.client.calls("l", ended=False)] == names[::-1]
    told = on(daemon, "why", names[0])
    assert told["state"] == "running" and told["pids"]
    failed = listed[2]
    assert failed.outcome is not None
    assert on(daemon, "why", failed.call)["exit_code"] == 3
    words = agentcgroup("why", failed.call, AGENTCGROUP_SOCKET=str(daemon.socket)).stdout
    assert "failed by itself" in words and "sh -c exit 3" in words
    for shim in running:
        shim.process.terminate()
        assert shim.wait() == 143


def test_a_declared_intent_is_used_once_by_what_matches(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("i", memory="256M")
    daemon.client.declare_intent({"memory": "96M", "pids_max": 33}, match="echo pytest*",
                                 session="i")  # fmt: skip

    def begin(*command: str) -> tuple[int, str | None]:
        with daemon.client.tool_call(session="i") as call:
            result = call.run(command, capture_output=True, text=True)
            assert result.returncode == 0 and call.info is not None
            return int(call.info.limits["pids_max"] or 0), call.info.intent_source

    assert begin("echo", "other") == (512, "default")
    assert begin("echo", "pytest", "-q") == (33, "intent.declare")
    assert begin("echo", "pytest", "-q") == (512, "default")
    # By its id, whatever the command; what the call says itself goes first.
    wished = daemon.client.declare_intent({"pids_max": 44, "memory": "64M"}, session="i")
    with daemon.client.tool_call(memory="80M", session="i", intent_id=wished) as call:
        call.run(["true"])
        assert call.info is not None
        assert call.info.limits["pids_max"] == 44
        assert call.info.limits["memory_high_bytes"] == 80 * MIB
    with (
        pytest.raises(RemoteError) as caught,
        daemon.client.tool_call(session="i", intent_id=wished) as call,
    ):
        call.run(["true"])
    assert caught.value.field == "intent_id" and "declare it again" in caught.value.remedy
    # An old one is forgotten.
    daemon.client.declare_intent({"pids_max": 55}, session="i", ttl_s=0.001)
    assert begin("echo", "late") == (512, "learned")
    with pytest.raises(RemoteError) as caught:
        daemon.client.declare_intent({"memory": "64M"}, session="nowhere")
    assert caught.value.kind == "not_found"


@pytest.mark.agents
def test_sessions_are_found_again_after_a_restart(daemon: PrivateDaemon, place: Path) -> None:
    with agent(daemon, place) as mine:
        daemon.client.create_session("r", memory="200M", kind="outside", priority="high",
                                     labels={"team": "x"}, pidfd=mine.pidfd)  # fmt: skip
        daemon.client.update_session("r", memory="220M")
        before = daemon.client.session("r")
        daemon.stop()
        daemon.start()
        after = daemon.client.session("r")
        same = {"memory_current_bytes"}
        assert after.model_dump(exclude=same) == before.model_dump(exclude=same)
        status, told = mine.run("agentcgroup-run -- true")
        assert status == 0, told
