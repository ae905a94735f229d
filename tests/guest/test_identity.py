# SPDX-License-Identifier: Apache-2.0
"""Nobody in a session reaches beyond it: not by methods, not by pidfds, not by files."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from harness import PrivateDaemon, enter_cgroup, read_value, until
from identity_world import Puppet, World, cgroup_of, kind_of

from agentcgroup.protocol.messages import METHODS, Access

pytestmark = [pytest.mark.guest, pytest.mark.agents]

STEP = {"step": 1, "prompt_tokens": 1, "completion_tokens": 1}
# What one's own session offers, with least parameters; the others need a call or key.
OF_A_SESSION: dict[str, dict[str, Any]] = {
    "session.get": {}, "session.budget": {}, "tool.list": {}, "events.subscribe": {},
    "intent.declare": {"intent": {}}, "step.report": STEP,
    "tool.begin": {"key": "never", "shell": True},
}  # fmt: skip
LEAF_ONLY = {"host.version", "session.budget", "tool.begin", "tool.get", "tool.end"}
# For an emulated, busy machine; who is starved waits for ever.
AGENT_BOUND_S = 15.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with PrivateDaemon() as daemon:
        made = World(daemon)
        yield made
        made.close()


@pytest.fixture(params=["user", "container root"])
def who(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["agent", "leaf"])
def place(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def puppet(world: World, who: str, place: str) -> Iterator[Puppet]:
    """In session A; whatever the test made it try, nothing foreign may have changed."""
    found = world.puppet(who, place)
    before = world.everything()
    yield found
    assert world.everything() == before


def test_the_kernel_says_who_it_is(puppet: Puppet, world: World, place: str) -> None:
    assert puppet.ask("host.version") == "ok"
    assert puppet.result("session.budget")["session"] == "A"
    if place == "leaf":
        assert puppet.result("tool.get")["call"]["call"] == world.calls["A"]
        assert puppet.ask("session.get") == "not_permitted"
    else:
        assert puppet.result("session.get")["session"]["name"] == "A"
        assert puppet.result("tool.get", call=world.calls["A"])["call"]["session"] == "A"


def test_another_session_cannot_be_named(puppet: Puppet) -> None:
    for method, params in OF_A_SESSION.items():
        there = puppet.do("request", method=method, params={**params, "session": "B"})
        nowhere = puppet.do("request", method=method, params={**params, "session": "nowhere"})
        assert kind_of(there) == "not_permitted", method
        # Nothing tells whether the session exists.
        assert str(there).replace("'B'", "") == str(nowhere).replace("'nowhere'", "")


def test_another_sessions_call_cannot_be_named(puppet: Puppet, world: World) -> None:
    for method in ("tool.get", "tool.update", "tool.end"):
        there = puppet.do("request", method=method, params={"call": world.calls["B"]})
        nowhere = puppet.do("request", method=method, params={"call": "nowhere"})
        assert kind_of(there) in ("not_found", "not_permitted"), method
        assert kind_of(there) == kind_of(nowhere)
    keys = [world.daemon.client.calls("B")[0].call]
    assert puppet.ask("tool.resume", key=keys[0]) in ("not_found", "not_permitted")


def test_nothing_administrative(puppet: Puppet, world: World, who: str) -> None:
    for name, method in METHODS.items():
        if method.access is Access.ADMIN:
            for session in ("A", "B"):
                said = puppet.ask(name, session=session, memory="1G", pids_max=1000)
                assert said == "not_permitted", name
    admin = puppet.do("connect", path=str(world.daemon.base / "admin.sock"))
    if who == "user":
        assert admin["errno"] == errno.EACCES
    else:
        # Root by the uid, and may open the socket: its namespaces give it away.
        assert kind_of(puppet.do("answer")) == "not_permitted"
    puppet.do("connect", path=puppet.socket)


def test_a_tool_call_may_not_touch_its_own_limits(world: World, who: str) -> None:
    puppet = world.puppet(who, "leaf")
    before = world.everything()
    limits = [read_value(world.place("A", "leaf"), f) for f in ("memory.high", "memory.max")]
    for method in METHODS:
        if method not in LEAF_ONLY:
            assert puppet.ask(method, **OF_A_SESSION.get(method, {})) == "not_permitted", method
    assert puppet.ask("tool.update", call=world.calls["A"], intent={"memory": "1G"}) != "ok"
    assert puppet.ask("tool.end", call=world.calls["A"], exit_code=0) == "not_permitted"
    assert [
        read_value(world.place("A", "leaf"), f) for f in ("memory.high", "memory.max")
    ] == limits
    assert world.everything() == before


def test_the_files_are_closed_too(puppet: Puppet, world: World, place: str) -> None:
    base = world.daemon.root
    for file in ("memory.max", "memory.high", "pids.max", "cgroup.procs", "cgroup.freeze"):
        for cgroup in (world.place("A", place), base / "A", base / "A/tools", base / "B", base):
            said = puppet.do("write", path=str(cgroup / file), text="0")
            assert said["errno"] in (errno.EACCES, errno.EROFS, errno.ENOENT), cgroup / file


def test_no_foreign_process_is_moved(puppet: Puppet, world: World, place: str) -> None:
    for name, fd in world.pidfds.items():
        key = uuid.uuid4().hex
        said = puppet.ask("tool.begin", fd, key=key)
        if place == "agent":
            assert said == "target_refused", name
            assert puppet.ask("tool.update", fd, call=world.calls["A"]) == "target_refused"
        else:
            # Nested: there is nothing to move, and nothing was.
            assert said == "ok"
        assert puppet.ask("host.version", fd) == "bad_descriptor"


def test_only_own_living_children_are_placed(world: World, who: str) -> None:
    puppet = world.puppet(who, "agent")
    root = who == "container root"
    puppet.do("child", name="good")
    begun = puppet.result("tool.begin", "good", key=uuid.uuid4().hex, intent={"memory": "8M"})
    leaf = world.daemon.leaf(begun["call"])
    assert len(read_value(leaf, "cgroup.procs").split()) == 1
    puppet.do("kill", name="good")
    assert puppet.ask("tool.end", call=begun["call"], signal=9) == "ok"
    assert not leaf.exists()
    puppet.do("grandchild", name="grandchild")
    puppet.do("child", name="zombie")
    puppet.do("kill", name="zombie", reap=False)
    puppet.do("child", name="reaped")
    puppet.do("kill", name="reaped")
    puppet.do("child", name="other user", uid=1001 if root else None)
    before = world.daemon.leaves()
    for name in ("grandchild", "zombie", "reaped", *(["other user"] if root else [])):
        assert puppet.ask("tool.begin", name, key=uuid.uuid4().hex) == "target_refused", name
    assert world.daemon.leaves() == before
    puppet.do("kill", name="other user")


def test_a_child_stays_in_the_leaf_it_has(world: World, who: str) -> None:
    puppet = world.puppet(who, "agent")
    child = puppet.do("child", name="placed")["pid"]
    begun = puppet.result("tool.begin", "placed", key=f"{who} 1", intent={"memory": "8M"})
    leaf = world.daemon.leaf(begun["call"])
    before = read_value(leaf, "cgroup.procs")
    assert (
        puppet.ask("tool.begin", "placed", key=f"{who} 2", intent={"memory": "8M"})
        == "target_refused"
    )
    assert puppet.ask("tool.update", "placed", call=world.calls["A"]) == "target_refused"
    # Asking again for the same call is no move.
    again = puppet.result("tool.begin", "placed", key=f"{who} 1", intent={"memory": "8M"})
    assert again["call"] == begun["call"]
    assert read_value(leaf, "cgroup.procs") == before
    puppet.do("kill", name="placed")
    assert puppet.ask("tool.end", call=begun["call"], signal=9) == "ok", child


def test_refused_requests_leave_no_descriptor(world: World, who: str) -> None:
    puppet = world.puppet(who, "agent")
    puppet.do("child", name="refused")
    key = uuid.uuid4().hex
    begun = puppet.result("tool.begin", "refused", key=key, intent={"memory": "8M"})
    puppet.do("kill", name="refused")
    assert puppet.ask("tool.end", call=begun["call"], signal=9) == "ok"
    puppet.do("child", name="waits")
    refusals: list[tuple[str, str | int, dict[str, Any]]] = [
        ("tool.begin", "waits", {"key": key}),
        ("tool.begin", "waits", {"key": "x", "session": "B"}),
        ("tool.begin", "waits", {"key": "x", "intent_id": "nothing"}),
        ("tool.begin", "waits", {"key": "x", "intent": {"memory": "90G"}}),
        ("tool.begin", "refused", {"key": "x"}),
        ("tool.begin", world.pidfds["PID 1"], {"key": "x"}),
        ("tool.update", "waits", {"call": begun["call"]}),
        ("tool.update", "refused", {"call": world.calls["A"]}),
        ("session.create", "waits", {"name": "mine"}),
    ]
    counts = []
    for _ in range(5):
        for method, fd, params in refusals:
            assert puppet.ask(method, fd, **params) != "ok", (method, params)
        counts.append(world.open_pidfds())
    # The last one's may be closed a moment after its answer.
    assert abs(counts[-1] - counts[0]) <= 1
    puppet.do("kill", name="waits")


def test_a_stranger_gets_the_version(world: World) -> None:
    for who in ("user", "container root", "root"):
        puppet = world.puppet(who, "outside")
        for method in METHODS:
            expected = "ok" if method == "host.version" else "no_session"
            assert puppet.ask(method, session="B") in (expected, "invalid_params"), method
            assert puppet.ask(method, **OF_A_SESSION.get(method, {})) == expected, method


def test_root_of_another_container_is_no_administrator(world: World) -> None:
    puppet = world.puppet("container root", "outside")
    assert puppet.hello["uid"] == 0
    puppet.do("connect", path=str(world.daemon.base / "admin.sock"))
    assert kind_of(puppet.do("answer")) == "not_permitted"
    puppet.do("connect", path=puppet.socket)
    host = world.puppet("root", "outside")
    host.do("connect", path=str(world.daemon.base / "admin.sock"))
    assert host.ask("session.get", session="B") == "ok"
    host.do("connect", path=host.socket)


def recycle(pid: int, cgroup: Any) -> int:
    """A new process with this number, in `cgroup`. Only where nobody else forks much."""

    def attempt() -> int:
        with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as last:
            last.write(str(pid - 1))
        new = os.fork()
        if new == 0:
            if os.getpid() == pid:
                enter_cgroup(cgroup)
                os.execvp("sleep", ["sleep", "900"])
            os._exit(0)
        if new != pid:
            os.waitpid(new, 0)
            return 0
        return new

    return until(attempt, f"a process gets the number {pid}", interval_s=0)


def test_a_recycled_number_is_not_the_peer(world: World) -> None:
    """The connection outlives its process; a process of session A gets the number."""
    puppet = world.puppet("user", "outside", fresh=True)
    old = puppet.process.pid
    assert puppet.ask("session.get") == "no_session"
    puppet.do("heir")
    puppet.process.wait()
    assert puppet.ask("session.get") == "no_identity"
    new = recycle(old, world.place("A", "agent"))
    try:
        until(lambda: cgroup_of(new).endswith("/A/agent"), "the new process is in A")
        assert puppet.ask("session.get") == "no_identity"
        assert puppet.ask("host.version") == "ok"
    finally:
        os.kill(new, 9)
        os.waitpid(new, 0)


def test_a_recycled_number_is_not_the_child(world: World) -> None:
    """It ends while its begin waits for room; a process of session B gets its number."""
    puppet = world.puppet("user", "agent", fresh=True)
    child = puppet.do("child", name="filler")["pid"]
    filler = puppet.result(
        "tool.begin",
        "filler",
        key=uuid.uuid4().hex,
        intent={"memory": "110M", "memory_max": "110M"},
    )
    child = puppet.do("child", name="waits")["pid"]
    params = {"key": uuid.uuid4().hex, "intent": {"memory": "90M", "memory_max": "90M"}}
    puppet.do("send", method="tool.begin", params=params, fd="waits")
    until(lambda: world.daemon.client.session("A").queued == 1, "the begin waits")
    puppet.do("kill", name="waits")
    new = recycle(child, world.place("B", "agent"))
    try:
        until(lambda: cgroup_of(new).endswith("/B/agent"), "the new process is in B")
        other = world.puppet("user", "agent")
        assert other.ask("tool.end", call=filler["call"], signal=9) == "ok"
        assert kind_of(puppet.do("answer")) == "target_refused"
        assert cgroup_of(new).endswith("/B/agent")
    finally:
        os.kill(new, 9)
        os.waitpid(new, 0)
    assert world.daemon.orphans() == []


def test_what_an_uncontained_root_can_do_is_said(world: World) -> None:
    client = world.daemon.client
    for who, expected in (("root", "advisory"), ("user", "enforced")):
        puppet = world.puppet(who, "outside", fresh=True)
        pidfd = os.pidfd_open(puppet.process.pid)
        name = f"agent-{expected}"
        info = client.create_session(name, pidfd=pidfd, memory="64M")
        os.close(pidfd)
        assert info.containment == expected
        assert len(info.containment_reason) > 20
        assert puppet.result("session.get")["session"]["name"] == name
        if who == "root":
            said = puppet.do("write", path=f"{info.cgroup}/cgroup.max.descendants", text="max")
            assert said == {}, "it is advised, not contained: this is what that means"
        client.end_session(name)
