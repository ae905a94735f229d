# SPDX-License-Identifier: Apache-2.0
"""Random walks on the kernel and on the in-memory tree side by side: same answers.

What is compared: the errno of every refused operation, and after each one the tree,
its settings, who is where, and who lives. A failure prints its seed and the walk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from cgroup_backends import Backend, FakeBackend, KernelBackend, eventually

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.api import CgroupLike
from agentcgroup.cgroupfs.fake_values import CONTROLLERS

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

STEPS = 100
SEEDS = range(8)
NAMES = ("a", "b", "c")
WRITES = (
    (files.CGROUP_SUBTREE_CONTROL, "+memory +pids"),
    (files.CGROUP_SUBTREE_CONTROL, "+memory"),
    (files.CGROUP_SUBTREE_CONTROL, "-pids"),
    (files.CGROUP_SUBTREE_CONTROL, "-memory -pids"),
    (files.CGROUP_FREEZE, "1"),
    (files.CGROUP_FREEZE, "0"),
    (files.CGROUP_MAX_DESCENDANTS, "2"),
    (files.CGROUP_MAX_DESCENDANTS, "max"),
    (files.CGROUP_MAX_DEPTH, "1"),
    (files.CGROUP_MAX_DEPTH, "max"),
    (files.MEMORY_HIGH, "1G"),
    (files.MEMORY_LOW, "3M"),
    (files.MEMORY_OOM_GROUP, "1"),
    (files.MEMORY_MAX, "wrong"),
    (files.PIDS_MAX, "77"),
    (files.PIDS_MAX, "-5"),
)
COMPARED = (
    files.CGROUP_SUBTREE_CONTROL,
    files.CGROUP_FREEZE,
    files.CGROUP_MAX_DEPTH,
    files.CGROUP_MAX_DESCENDANTS,
    files.CGROUP_EVENTS,
    files.CGROUP_TYPE,
    files.MEMORY_HIGH,
    files.MEMORY_LOW,
    files.MEMORY_MAX,
    files.MEMORY_OOM_GROUP,
    files.PIDS_CURRENT,
    files.PIDS_MAX,
)


@dataclass
class Side:
    """One host of the two. Handles and processes have the same index on both."""

    host: Backend
    handles: list[CgroupLike] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)

    def picture(self) -> list[object]:
        """What there is to see, without anything that differs by nature (ids, pids)."""
        numbers = {pid: index for index, pid in enumerate(self.pids)}
        seen: list[object] = [[self.host.alive(pid) for pid in self.pids]]
        for cg in self.handles:
            seen.append((cg.exists(), cg.children()))
            if cg.exists():
                seen.append(_known(cg.try_read(files.CGROUP_CONTROLLERS)))
                seen.append({file: cg.try_read(file) for file in COMPARED})
                seen.append(sorted(numbers[pid] for pid in cg.procs()))
        return seen


def _known(text: str | None) -> set[str]:
    """A kernel offers more controllers than the in-memory tree has."""
    return set((text or "").split()) & set(CONTROLLERS)


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    fake, real = FakeBackend(), KernelBackend()
    try:
        yield Side(fake, [fake.root]), Side(real, [real.root])
    finally:
        real.close()


def _choose(dice: random.Random, handles: int, pids: int) -> tuple[str, Callable[[Side], object]]:
    """One operation, to be done on either side."""
    where, who = dice.randrange(handles), dice.randrange(pids) if pids else None
    name = dice.choice(NAMES)
    kind = dice.choices(
        ("create", "remove", "remove_tree", "write", "spawn", "move", "kill", "end"),
        (6, 3, 1, 8, 3, 4, 1, 1),
    )[0]
    if kind == "create":
        return f"create {where}/{name}", lambda side: side.handles.append(
            side.handles[where].create(name)
        )
    if kind == "write":
        file, text = dice.choice(WRITES)
        return f"{where}: {file} < {text}", lambda side: side.handles[where].write(file, text)
    if kind == "spawn" and pids < 6:
        return f"spawn in {where}", lambda side: _spawn(side, where)
    if kind == "move" and who is not None:
        return f"move {who} to {where}", lambda side: side.handles[where].move(side.pids[who])
    if kind == "end" and who is not None:
        return f"end {who}", lambda side: _end(side, who)
    if kind == "kill":
        return f"kill {where}", lambda side: side.handles[where].kill()
    if kind == "remove_tree" and where:
        return f"remove tree {where}", lambda side: side.handles[where].remove_tree()
    # The topmost one stays: it would end the walk.
    target = where or handles - 1
    if target == 0:
        return "nothing", lambda side: None
    return f"remove {target}", lambda side: side.handles[target].remove()


def _spawn(side: Side, where: int) -> None:
    """Born outside and moved in, so that a refusal is the kernel's word on the move."""
    pid = side.host.spawn_outside()
    side.pids.append(pid)
    side.handles[where].move(pid)


def _end(side: Side, who: int) -> None:
    if side.host.alive(side.pids[who]):
        side.host.kill_one(side.pids[who])


def _done(side: Side, operation: Callable[[Side], object]) -> object:
    try:
        result = operation(side)
    except OSError as error:
        return (type(error).__name__, error.errno)
    return result if isinstance(result, bool) else None


@pytest.mark.parametrize("seed", SEEDS)
def test_same_answers(sides: tuple[Side, Side], seed: int) -> None:
    fake, real = sides
    dice = random.Random(seed)
    walk: list[str] = []
    for _ in range(STEPS):
        text, operation = _choose(dice, len(fake.handles), len(fake.pids))
        walk.append(text)
        told = f"seed {seed}: " + "; ".join(walk)
        expected = _done(fake, operation)
        assert _done(real, operation) == expected, told
        if not eventually(lambda: real.picture() == fake.picture()):
            assert real.picture() == fake.picture(), told
