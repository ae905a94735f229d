# SPDX-License-Identifier: Apache-2.0
"""A second daemon reads back what a first one left, on the in-memory tree."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon import in_place
from agentcgroup.daemon.calls import Calls
from agentcgroup.daemon.config import BoundaryConfig, CallDefaults, SessionDefaults
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.ending import Ender
from agentcgroup.daemon.outcomes import OutcomeStore
from agentcgroup.daemon.places import Places
from agentcgroup.daemon.records import (
    EPOCH_TIME_XATTR,
    EPOCH_XATTR,
    CallRecord,
    ProcessRef,
    SessionRecord,
)
from agentcgroup.daemon.recovery import Recovery
from agentcgroup.daemon.rooting import lock_root
from agentcgroup.daemon.sessions import Sessions
from agentcgroup.daemon.takeover import Takeover
from agentcgroup.errors import ConfigError
from agentcgroup.policy.state import CallPhase, PolicyConfig
from agentcgroup.types.actions import Because, Code
from agentcgroup.types.intents import Intent
from agentcgroup.types.limits import Limits
from agentcgroup.types.outcomes import Outcome, Reason
from agentcgroup.types.sessions import Mode, SessionSpec
from agentcgroup.units import MIB

NOBODY = ProcessRef(2**22 - 1, 1)


class NoWatch:
    def begin(self, session: SessionRecord) -> None:
        pass


class Instance:
    """One life of the daemon, without sockets."""

    def __init__(self, root: FakeCgroup, state: Path) -> None:
        self.core = Core(4096 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        self.root = root
        self.store = OutcomeStore(state / "outcomes.jsonl", 100, 24)
        places = Places(self.core, "/agentcgroup")
        self.sessions = Sessions(
            self.core, root, SessionDefaults(), Mode.ENFORCE, _never, places, BoundaryConfig()
        )
        ender = Ender(self.core, root, self.store)
        calls = Calls(self.core, places, self.store, ender, CallDefaults(), SessionDefaults())
        self.calls = calls
        self.recovery = Recovery(
            self.core, root, self.sessions, calls, ender, self.store,
            NoWatch(),  # type: ignore[arg-type]
            self.open,
        )  # fmt: skip

    def open(self, path: str) -> FakeCgroup:
        """From the root of the hierarchy, as the real one is opened by its path."""
        cgroup = FakeCgroup.root(self.root.kernel)
        for part in path.removeprefix(cgroup.path).strip("/").split("/"):
            cgroup = cgroup.child(part)
        return cgroup

    def leaf(self, name: str, owner: ProcessRef, session: str = "s", **fields: Any) -> CallRecord:
        """A call as it stands in the tree right after it was placed."""
        record = CallRecord(
            name, session, key=f"key of {name}", intent=Intent(memory=64 * MIB), owner=owner,
            child=None, begun_ns=1, began_epoch_s=1.0, placed_ns=2, **fields,
        )  # fmt: skip
        record.limits = Limits(memory_high_bytes=64 * MIB, memory_max_bytes=256 * MIB)
        record.leaf = self.core.sessions[session].tools.create(name)
        record.leaf.write(files.MEMORY_HIGH, str(64 * MIB))
        record.leaf.write(files.MEMORY_MAX, str(256 * MIB))
        record.save()
        return record

    def close(self) -> None:
        self.core.close()
        self.store.close()


def _never(path: str) -> FakeCgroup:
    raise AssertionError(path)


@pytest.fixture
def lives(tmp_path: Path) -> Callable[[Callable[[Instance, Instance], Any]], None]:
    """Runs a story with the daemon that died and the one that comes after it."""

    def run(story: Callable[[Instance, Instance], Coroutine[Any, Any, None]]) -> None:
        async def both() -> None:
            root = FakeCgroup.delegated(FakeKernel())
            root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
            first = Instance(root, tmp_path)
            first.sessions.create(SessionSpec(name="s", memory=512 * MIB))
            second = Instance(root, tmp_path)
            try:
                await story(first, second)
            finally:
                first.close()
                second.close()

        asyncio.run(both())

    return run


def me() -> ProcessRef:
    found = ProcessRef.of(os.getpid())
    assert found is not None
    return found


def test_a_running_call_is_taken_over(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        first.leaf("c1", me(), frozen_ns=5, waited_ms=7.5)
        found = await second.recovery.run()
        assert (found["sessions"], found["running"]) == (1, 1)
        record = second.core.calls["c1"]
        assert (record.key, record.waited_ms, record.frozen_ns) == ("key of c1", 7.5, 5)
        assert record.limits.memory_high_bytes == 64 * MIB
        state = second.core.state.calls["c1"]
        assert (state.phase, state.grant_bytes, state.started_ns) == (
            CallPhase.RUNNING, 64 * MIB, 2,
        )  # fmt: skip
        assert second.core.sessions["s"].keys == {"key of c1": "c1"}

    lives(story)


def test_what_was_never_begun_or_has_ended_is_removed(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        first.core.sessions["s"].tools.create("fresh")
        first.leaf("done", me())
        outcome = Outcome(call="done", session="s", reason=Reason.COMPLETED)
        second.store.append(outcome, "key of done")
        first.root.create("half-a-session")
        found = await second.recovery.run()
        assert found["removed"] == 3
        assert second.core.sessions["s"].tools.children() == []
        assert first.root.children() == ["s"]

    lives(story)


@pytest.mark.parametrize(
    ("killed", "reason"), [(None, Reason.LOST), (Reason.TIMED_OUT, Reason.TIMED_OUT)]
)
def test_without_its_owner_it_ends(lives: Any, killed: Reason | None, reason: Reason) -> None:
    async def story(first: Instance, second: Instance) -> None:
        because = Because(Code.TIMEOUT, "it ran for its timeout of 3 s") if killed else None
        record = first.leaf("c1", NOBODY, killed=killed, because=because)
        first.root.kernel.spawn(record.leaf.node, "work", MIB)  # type: ignore[union-attr]
        assert (await second.recovery.run())["ended"] == 1
        outcome = second.store.get("c1")
        assert outcome is not None and outcome.reason is reason
        assert second.core.sessions["s"].tools.children() == []
        assert second.core.calls == {} and second.core.state.calls == {}

    lives(story)


def test_a_frozen_call_waits_on(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        since_ns = time.monotonic_ns() - 1_000_000_000
        record = first.leaf("c1", me(), frozen_since_ns=since_ns)
        assert record.leaf is not None
        record.leaf.freeze(True)
        await second.recovery.run()
        restored = second.core.calls["c1"]
        # It was all that waited and memory is free: policy thaws it at once.
        assert restored.leaf is not None and not restored.leaf.frozen()
        assert restored.frozen_since_ns is None and restored.frozen_ns >= 1_000_000_000

    lives(story)


def test_a_guardian_thawed_it_meanwhile(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        now_ns = time.monotonic_ns()
        first.leaf("c1", me(), frozen_since_ns=now_ns - 9_000_000_000)
        first.root.set_xattr(EPOCH_XATTR, b"1")
        thawed_ns = time.time_ns() - 4_000_000_000
        first.root.set_xattr(EPOCH_TIME_XATTR, str(thawed_ns).encode())
        assert (await second.recovery.run())["epoch"] == 1
        frozen_s = second.core.calls["c1"].frozen_ns / 1e9
        assert 4.5 < frozen_s < 5.5, "frozen until the guardian came, not until we did"

    lives(story)


def test_a_daemon_that_went_on_adopts_the_epoch(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        first.leaf("c1", me())
        await second.recovery.run()
        takeover = Takeover(second.core, second.root)
        record = second.core.calls["c1"]
        assert record.leaf is not None
        record.leaf.write(files.MEMORY_HIGH, str(200 * MIB))
        takeover.check()
        assert second.core.state.calls["c1"].grant_bytes == 64 * MIB, "no epoch, no news"
        second.root.set_xattr(EPOCH_XATTR, b"1")
        takeover.check()
        assert second.core.state.calls["c1"].grant_bytes == 200 * MIB
        assert record.limits.memory_high_bytes == 200 * MIB

    lives(story)


def test_one_daemon_a_tree(tmp_path: Path) -> None:
    class Root:
        path = str(tmp_path)

    held = lock_root(Root())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another daemon works on this tree"):
        lock_root(Root())  # type: ignore[arg-type]
    os.close(held)
    os.close(lock_root(Root()))  # type: ignore[arg-type]


def test_nobody_is_served_from_what_others_hold(lives: Any) -> None:
    """Whatever comes first out of the directory: decisions wait for the whole picture."""

    async def story(first: Instance, second: Instance) -> None:
        for name in ("a", "holder", "z"):
            record = first.leaf(name, me(), frozen_since_ns=None if name == "holder" else 1)
            assert record.leaf is not None
            if name == "holder":
                record.leaf.write(files.MEMORY_MAX, str(500 * MIB))
                record.leaf.write(files.MEMORY_HIGH, str(420 * MIB))
            else:
                record.leaf.freeze(True)
            size = 400 * MIB if name == "holder" else 60 * MIB
            first.root.kernel.spawn(record.leaf.node, "work", size)  # type: ignore[union-attr]
        await second.recovery.run()
        frozen = {c.name for c in second.core.calls.values() if c.leaf and c.leaf.frozen()}
        assert frozen == {"a", "z"}

    lives(story)


# --- sessions in place


def a_container(root: FakeCgroup, name: str = "box") -> tuple[FakeCgroup, int]:
    """A cgroup beside the tree with a process in it."""
    cgroup = FakeCgroup.root(root.kernel).create(name)
    return cgroup, root.kernel.spawn(cgroup.node)


def test_a_session_in_place_is_found_again_by_the_way_kept_at_the_root(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        box, pid = a_container(first.root)
        first.sessions.adopt_in_place(SessionSpec(name="b", memory=256 * MIB), box.dup())
        first.leaf("c1", me(), session="b")
        found = await second.recovery.run()
        assert (found["sessions"], found["running"]) == (2, 1)
        record = second.core.sessions["b"]
        assert (record.in_place, record.spec.memory) == (box.path, 256 * MIB)
        assert record.was == {"cgroup.subtree_control": "", "cpu.weight": "100"}
        assert second.core.in_place == {box.path: "b"}
        assert second.core.calls["c1"].session == "b"
        second.calls.release(second.core.calls["c1"])
        await second.sessions.detach(record)
        assert (box.children(), box.procs(), box.list_xattrs()) == ([], [pid], [])
        assert first.root.list_xattrs() == []

    lives(story)


def test_a_half_divided_cgroup_is_put_together(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        box, pid = a_container(first.root)
        in_place.note_link(first.root, "b", box)
        in_place.split(box)
        found = await second.recovery.run()
        assert (found["sessions"], found["removed"]) == (1, 1)
        assert (box.children(), box.procs()) == ([], [pid])
        assert first.root.list_xattrs() == []

    lives(story)


def test_the_way_to_a_cgroup_that_is_gone_or_another_is_forgotten(lives: Any) -> None:
    async def story(first: Instance, second: Instance) -> None:
        box, _ = a_container(first.root)
        gone = FakeCgroup.root(first.root.kernel).create("gone")
        in_place.note_link(first.root, "b", box)
        in_place.note_link(first.root, "g", gone)
        gone.remove()
        found = await second.recovery.run()
        assert (found["sessions"], found["removed"]) == (1, 0)
        assert first.root.list_xattrs() == [] and box.children() == []

    lives(story)
