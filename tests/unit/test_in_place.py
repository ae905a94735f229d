# SPDX-License-Identifier: Apache-2.0
"""A cgroup becomes a session where it is, and what it was before, on the in-memory tree."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon import in_place
from agentcgroup.daemon.config import BoundaryConfig, SessionDefaults
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.places import Places
from agentcgroup.daemon.sessions import Sessions
from agentcgroup.errors import InvalidValueError
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.protocol.errors import ProtocolError
from agentcgroup.protocol.messages import SessionUpdate
from agentcgroup.types.intents import Priority
from agentcgroup.types.sessions import Mode, SessionSpec
from agentcgroup.units import MIB


class World:
    """A tree, and beside it a container with two processes, of which one holds memory."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.root = FakeCgroup.delegated(self.kernel)
        self.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
        self.engine = FakeCgroup.root(self.kernel).create("docker")
        self.engine.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
        self.box = self.engine.create("0123")
        self.pids = [self.kernel.spawn(self.box.node, memory_bytes=MIB * n) for n in (0, 5)]
        self.core = Core(4096 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        self.places = Places(self.core, self.root.path)
        self.sessions = Sessions(
            self.core,
            self.root,
            SessionDefaults(),
            Mode.ENFORCE,
            _never,
            self.places,
            BoundaryConfig(),
        )

    def state(self) -> dict[str, Any]:
        """Everything about the container that somebody else could see."""
        kept = (files.CGROUP_SUBTREE_CONTROL, files.CPU_WEIGHT, files.CPU_MAX, files.MEMORY_MAX,
                files.MEMORY_HIGH, files.PIDS_MAX, files.CGROUP_MAX_DESCENDANTS)  # fmt: skip
        return {
            "files": {file: self.box.read(file) for file in kept},
            "procs": sorted(self.box.procs()) if not self.box.children() else None,
            "children": self.box.children(), "xattrs": self.box.list_xattrs(),
        }  # fmt: skip


def _never(path: str) -> FakeCgroup:
    raise AssertionError(path)


@pytest.fixture
def world() -> Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]:
    def run(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            made = World()
            try:
                await story(made)
            finally:
                made.core.close()

        asyncio.run(told())

    return run


def test_there_and_back(world: Any) -> None:
    async def story(w: World) -> None:
        before = w.state()
        record = w.sessions.adopt_in_place(
            SessionSpec(name="b", memory=256 * MIB, priority=Priority.HIGH, cpu=1.5), w.box.dup()
        )
        assert w.box.children() == ["agent", "tools"]
        assert sorted(record.agent.procs()) == w.pids
        # The container's own limits are not ours to write, a weight that nobody chose is.
        assert w.box.read(files.MEMORY_MAX) == w.box.read(files.PIDS_MAX) == "max"
        assert w.box.read(files.CPU_MAX).startswith("max")
        assert w.box.read(files.CPU_WEIGHT) == "400"
        assert record.tools.read(files.MEMORY_MAX) == str(192 * MIB)
        assert record.tools.read(files.CPU_MAX) == "150000 100000"
        assert record.tools.read(files.PIDS_MAX) == str(4096 - 64)
        child = w.kernel.spawn(record.tools.create("c1").node)
        await w.sessions.detach(record)
        w.kernel.exit(child)
        assert w.state() == before
        assert w.root.list_xattrs() == [] and w.core.in_place == {}

    world(story)


def test_its_end_gives_it_back_alive(world: Any) -> None:
    async def story(w: World) -> None:
        before = w.state()
        await w.sessions.end(w.sessions.adopt_in_place(SessionSpec(name="b"), w.box.dup()))
        assert w.state() == before

    world(story)


def test_who_is_to_stop_does_not_go_on_unmanaged(world: Any) -> None:
    async def story(w: World) -> None:
        record = w.sessions.adopt_in_place(SessionSpec(name="b"), w.box.dup())
        await w.sessions.end(record, with_place=True)
        assert w.box.procs() == [] and w.box.children() == []

    world(story)


def test_its_own_limits_are_the_budget(world: Any) -> None:
    async def story(w: World) -> None:
        w.box.write(files.MEMORY_MAX, str(512 * MIB))
        w.box.write(files.PIDS_MAX, "100")
        w.box.write(files.CPU_WEIGHT, "33")
        record = w.sessions.adopt_in_place(SessionSpec(name="b", priority=Priority.LOW), w.box)
        assert (record.spec.memory, record.pids_max) == (512 * MIB, 100)
        assert record.tools.read(files.MEMORY_MAX) == str((512 - 64) * MIB)
        assert record.tools.read(files.PIDS_MAX) == "50"
        assert w.box.read(files.CPU_WEIGHT) == "33"
        for field, value in (("memory", 513 * MIB), ("pids_max", 101)):
            change = SessionUpdate.model_validate({"session": "b", field: value})
            with pytest.raises(InvalidValueError, match=r"the cgroup's own .* is"):
                w.sessions.update(change)
        w.sessions.update(SessionUpdate(session="b", memory=300 * MIB))
        assert record.tools.read(files.MEMORY_MAX) == str((300 - 64) * MIB)
        assert w.box.read(files.MEMORY_MAX) == str(512 * MIB)

    world(story)


@pytest.mark.parametrize(("asked", "after"), [(None, (256, 700)), (200, (200, 200))])
def test_a_limit_that_somebody_changes_is_followed(
    world: Any, asked: int | None, after: Any
) -> None:
    async def story(w: World) -> None:
        spec = SessionSpec(name="b", memory=asked * MIB if asked else None)
        record = w.sessions.adopt_in_place(spec, w.box)
        assert in_place.own_limit_change(record) is None
        for limit, budget in zip((256, 700), after, strict=True):
            w.box.write(files.MEMORY_MAX, str(limit * MIB))
            change = in_place.own_limit_change(record)
            if change is not None:
                w.sessions.update(change, follows=True)
            assert record.spec.memory == budget * MIB
        w.sessions.update(SessionUpdate(session="b", memory=100 * MIB))
        assert in_place.own_limit_change(record) is None

    world(story)


def test_observing_writes_no_limit(world: Any) -> None:
    async def story(w: World) -> None:
        spec = SessionSpec(name="b", memory=64 * MIB, mode=Mode.OBSERVE, priority=Priority.LOW)
        record = w.sessions.adopt_in_place(spec, w.box)
        for file in (files.MEMORY_MAX, files.MEMORY_HIGH, files.PIDS_MAX):
            assert record.tools.read(file) == "max"
        assert w.box.read(files.CPU_WEIGHT) == "100"

    world(story)


@pytest.mark.parametrize("why", ["children", "twice", "above", "below", "host"])
def test_what_can_be_no_session_is_refused_and_left_as_it_was(world: Any, why: str) -> None:
    async def story(w: World) -> None:
        cgroup, spec = w.box, SessionSpec(name="b")
        if why == "children":
            w.kernel.spawn(w.box.create("init.scope").node)
        elif why == "twice":
            w.sessions.adopt_in_place(SessionSpec(name="a"), w.box.dup())
        elif why == "above":
            w.sessions.adopt_in_place(SessionSpec(name="a"), w.box.dup())
            cgroup = w.engine
        elif why == "below":
            w.sessions.adopt_in_place(SessionSpec(name="a"), w.box.dup())
            cgroup = w.box.child("agent")
        else:
            spec = SessionSpec(name="b", memory=1 << 50)
        before = (w.box.children(), w.root.list_xattrs(), sorted(w.core.sessions))
        with pytest.raises((ProtocolError, InvalidValueError)) as caught:
            w.sessions.adopt_in_place(spec, cgroup.dup())
        assert caught.value.remedy
        assert (w.box.children(), w.root.list_xattrs(), sorted(w.core.sessions)) == before

    world(story)


def test_a_step_that_fails_is_undone(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(w: World) -> None:
        before = w.state()

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "no room for an attribute")

        for target, name in (
            (FakeCgroup, "set_xattr"), (in_place.layout, "write_room_limits"),
        ):  # fmt: skip
            with monkeypatch.context() as broken:
                broken.setattr(target, name, full)
                with pytest.raises(OSError):
                    w.sessions.adopt_in_place(SessionSpec(name="b"), w.box.dup())
            assert w.state() == before and w.root.list_xattrs() == []
            assert w.core.sessions == {}

    world(story)


def test_one_that_a_lost_daemon_left_divided_is_taken(world: Any) -> None:
    async def story(w: World) -> None:
        record = w.sessions.adopt_in_place(SessionSpec(name="old"), w.box.dup())
        w.kernel.spawn(record.tools.create("c1").node)
        w.core.sessions.clear()
        w.core.in_place.clear()
        again = w.sessions.adopt_in_place(SessionSpec(name="new"), w.box.dup())
        assert len(again.agent.procs()) == 3 and again.tools.children() == []

    world(story)


def test_the_places_of_processes(world: Any) -> None:
    async def story(w: World) -> None:
        w.sessions.create(SessionSpec(name="t"))
        w.sessions.adopt_in_place(SessionSpec(name="b"), w.box.dup())
        inside = w.box.path
        for path, found in {
            f"{w.root.path}/t/tools/c1": Location("t", "leaf", "c1"),
            f"{w.root.path}/t": Location("t", "session"),
            w.root.path: None,
            inside: Location("b", "session"),
            f"{inside}/agent": Location("b", "agent"),
            f"{inside}/agent/deeper/still": Location("b", "agent"),
            f"{inside}/tools/c2/own": Location("b", "leaf", "c2"),
            f"{inside}/tools/background": Location("b", "background"),
            f"{inside}4/agent": None,
            w.engine.path: None,
            "/": None,
        }.items():
            assert w.places.locate(path) == found, path
            assert w.places.taken(path) is (found is not None or path == w.root.path)

    world(story)
