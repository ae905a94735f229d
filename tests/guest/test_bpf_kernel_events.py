# SPDX-License-Identifier: Apache-2.0
"""The BPF programs on a real kernel: what happens in a watched cgroup arrives, nothing else.

Which programs a kernel gets differs, the events must not. Runs as root on cgroup v2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bpf_harness import DEADLINE_S, HOG, Collector, Tree, cgroup_id, high_count, remove_cgroup

from agentcgroup.bpf.boundary import ExecBoundary
from agentcgroup.bpf.kernel_events import KernelEvents
from agentcgroup.errors import InvalidValueError
from agentcgroup.types.events import ExecEvent, ExitEvent, MemoryEvent, OomEvent
from agentcgroup.units import MIB

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

CGROUPFS = Path("/sys/fs/cgroup")
# emulated kernels need 1 s alone; 9 s were seen beside eight other guests
OPEN_BUDGET_S = 30.0
# half as much again as the most that 6.1 to 7.3 took; the kernel's own limit is 1,000,000
VERIFIER_BUDGET = {
    "acg_boundary_perf": 50_000,
    "acg_on_exec_perf": 3_000,
    "acg_on_exit_perf": 3_000,
    "acg_oom_begin": 25,
    "acg_victim_marked": 17_500,
    "acg_victim_chosen": 17_500,
    "acg_memory_event": 16_500,
    "acg_reclaim_high": 50_000,
    "acg_try_to_free": 11_500,
    "acg_memcg_oom": 6_000,
    "acg_charge_failed": 6_000,
}
ALL = {"exec", "exit", "oom", "memory", "charge_failed"}


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    (CGROUPFS / "cgroup.subtree_control").write_text("+memory")
    made = CGROUPFS / f"acg-bpf-test-{os.getpid()}"
    for directory in (made, made / "watched"):
        directory.mkdir()
        (directory / "cgroup.subtree_control").write_text("+memory")
    yield made
    remove_cgroup(made / "watched")
    remove_cgroup(made)


@pytest.fixture(scope="module")
def opened(base: Path) -> Iterator[KernelEvents]:
    with KernelEvents.open(cgroup_id(base / "watched"), 2, gap_ns=1_000_000) as events:
        yield events


@pytest.fixture
def tree(base: Path, request: pytest.FixtureRequest) -> Iterator[Tree]:
    made = Tree(base, request.node.name[:64])
    yield made
    made.remove()


@pytest.fixture
def events(opened: KernelEvents, tree: Tree) -> KernelEvents:
    """Opened once, it takes a second; what earlier tests left is thrown away."""
    opened.read()
    return opened


def test_this_kernel_gets_every_capability(events: KernelEvents) -> None:
    assert events.missing() == {}
    assert set(events.capabilities()) == ALL


def test_exec_and_exit_of_a_process(tree: Tree, events: KernelEvents) -> None:
    got = Collector(events)
    done = tree.run(tree.leaf, "/bin/sh", "-c", 'exit 3  # $0 "$@"', "naïve arg", "x")
    assert done.returncode == 3
    started = got.wait(ExecEvent)
    assert started.filename == "/bin/sh"
    assert started.command == '/bin/sh -c exit 3  # $0 "$@" naïve arg x'
    assert started.cgroup_id == cgroup_id(tree.leaf)
    assert started.ppid == os.getpid()
    ended = got.wait(ExitEvent, lambda event: event.pid == started.pid)
    assert (ended.exit_code, ended.signal) == (3, None)
    assert ended.cgroup_id == cgroup_id(tree.leaf)
    assert started.t_ns < ended.t_ns <= time.monotonic_ns()


def test_a_long_command_line_is_cut_and_says_so(tree: Tree, events: KernelEvents) -> None:
    tree.run(tree.leaf, "/bin/true", "a" * 500)
    started = Collector(events).wait(ExecEvent)
    assert started.command.endswith("a…")
    assert 150 < len(started.command) <= 193


def test_exit_by_signal(tree: Tree, events: KernelEvents) -> None:
    tree.python(tree.leaf, "import os; os.kill(os.getpid(), 9)")
    ended = Collector(events).wait(ExitEvent)
    assert (ended.exit_code, ended.signal) == (None, signal.SIGKILL)


def test_a_process_with_threads_exits_once(tree: Tree, events: KernelEvents) -> None:
    threads = "import threading, time, os\n" + (
        "for i in range(16): threading.Thread(target=time.sleep, args=(9,)).start()\nos._exit(7)"
    )
    tree.python(tree.leaf, threads)
    marker = tree.run(tree.leaf, "/bin/true")
    assert marker.returncode == 0
    got = Collector(events)
    got.wait(ExitEvent, lambda event: event.exit_code == 0)
    assert [event.exit_code for event in got.all_of(ExitEvent)] == [7, 0]


def test_nothing_from_outside_the_root(tree: Tree, events: KernelEvents) -> None:
    (tree.outside / "memory.max").write_text(str(24 * MIB))
    tree.run(tree.outside, "/bin/true", "outside")
    killed = tree.python(tree.outside, HOG.format(mib=64))
    assert killed.returncode == -signal.SIGKILL
    tree.run(tree.leaf, "/bin/true", "inside")
    got = Collector(events)
    got.wait(ExitEvent)
    inside = {cgroup_id(tree.leaf), cgroup_id(tree.root)}
    assert {event.cgroup_id for event in got.seen} <= inside


def test_a_root_can_be_added_and_removed(tree: Tree, events: KernelEvents) -> None:
    got = Collector(events)
    events.add_root(cgroup_id(tree.outside), 2)
    tree.run(tree.outside, "/bin/true", "first")
    got.wait(ExecEvent, lambda event: event.command == "/bin/true first")
    events.remove_root(cgroup_id(tree.outside))
    events.remove_root(cgroup_id(tree.outside))
    tree.run(tree.outside, "/bin/true", "second")
    tree.run(tree.leaf, "/bin/true", "third")
    got.wait(ExecEvent, lambda event: event.command == "/bin/true third")
    assert not [e for e in got.all_of(ExecEvent) if e.command == "/bin/true second"]


def test_oom_victim_with_command_line_and_the_level_that_hit(
    tree: Tree, events: KernelEvents
) -> None:
    (tree.root / "memory.max").write_text(str(48 * MIB))
    done = tree.python(tree.leaf, HOG.format(mib=128), "the-biggest")
    assert done.returncode == -signal.SIGKILL
    got = Collector(events)
    victim = got.wait(OomEvent)
    assert victim.cgroup_id == cgroup_id(tree.root)
    assert victim.victim_cgroup_id == cgroup_id(tree.leaf)
    assert victim.victim_command.startswith(sys.executable)
    assert victim.victim_command.endswith("the-biggest")
    assert victim.victim_rss_bytes is not None
    assert 24 * MIB < victim.victim_rss_bytes < 64 * MIB
    ended = got.wait(ExitEvent, lambda event: event.pid == victim.victim_pid)
    assert ended.signal == signal.SIGKILL
    assert len(got.all_of(OomEvent)) == 1


def test_oom_victim_that_forked_without_exec_has_its_parents_command(
    tree: Tree, events: KernelEvents
) -> None:
    (tree.leaf / "memory.max").write_text(str(48 * MIB))
    fork = f"import os\nif os.fork() == 0:\n    {HOG.format(mib=128)}\nos.wait()"
    done = tree.python(tree.leaf, fork, "parent-command")
    assert done.returncode == 0
    got = Collector(events)
    victim = got.wait(OomEvent)
    parent = got.wait(ExecEvent)
    assert victim.victim_pid != parent.pid
    assert victim.cgroup_id == cgroup_id(tree.leaf)
    assert victim.victim_command.endswith("parent-command")


def test_oom_of_a_group_names_every_member(tree: Tree, events: KernelEvents) -> None:
    (tree.leaf / "memory.max").write_text(str(64 * MIB))
    (tree.leaf / "memory.oom.group").write_text("1")
    script = (
        f"import os, time\nfor i in range(2):\n    if os.fork() == 0:\n        time.sleep(60)\n"
        f"{HOG.format(mib=128)}"
    )
    done = tree.python(tree.leaf, script)
    assert done.returncode == -signal.SIGKILL
    got = Collector(events)
    until = time.monotonic() + DEADLINE_S
    while len(victims := got.all_of(OomEvent)) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert len({victim.victim_pid for victim in victims}) == 3
    assert {victim.cgroup_id for victim in victims} == {cgroup_id(tree.leaf)}


def test_memory_high_is_told_with_figures(tree: Tree, events: KernelEvents) -> None:
    (tree.leaf / "memory.high").write_text(str(16 * MIB))
    (tree.root / "memory.max").write_text(str(512 * MIB))
    with tree.throttled_hog(tree.leaf):
        told = Collector(events).wait(MemoryEvent, lambda event: event.kind == "high")
    assert told.cgroup_id == cgroup_id(tree.leaf)
    assert told.high_bytes == 16 * MIB
    assert told.max_bytes is None
    assert told.usage_bytes is not None
    assert 15 * MIB <= told.usage_bytes < 64 * MIB


def test_memory_max_and_oom_are_told(tree: Tree, events: KernelEvents) -> None:
    (tree.leaf / "memory.max").write_text(str(32 * MIB))
    tree.python(tree.leaf, HOG.format(mib=96))
    got = Collector(events)
    at_cap = got.wait(MemoryEvent, lambda event: event.kind == "max")
    ran_out = got.wait(MemoryEvent, lambda event: event.kind == "oom")
    for event in (at_cap, ran_out):
        assert event.cgroup_id == cgroup_id(tree.leaf)
        assert event.max_bytes == 32 * MIB


def test_memory_events_are_rate_limited(tree: Tree) -> None:
    (tree.leaf / "memory.high").write_text(str(12 * MIB))
    with KernelEvents.open(
        cgroup_id(tree.watched), 2, gap_ns=3_600_000_000_000, only=frozenset({"memory"})
    ) as events:
        got = Collector(events)
        with tree.throttled_hog(tree.leaf):
            got.wait(MemoryEvent, lambda event: event.kind == "high")
            until = time.monotonic() + DEADLINE_S
            while high_count(tree.leaf) < 5 and time.monotonic() < until:
                time.sleep(0.02)
        assert high_count(tree.leaf) >= 5
        assert len([event for event in got.all_of(MemoryEvent) if event.kind == "high"]) == 1


def test_what_the_ring_cannot_hold_is_counted(tree: Tree) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    with KernelEvents.open(cgroup_id(tree.watched), 2, ring_bytes=page) as events:
        tree.run(tree.leaf, "/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true $i; done")
        started = [event for event in events.read() if isinstance(event, ExecEvent)]
        dropped = events.dropped()
    assert 0 < len(started) < 11
    assert len(started) + dropped["exec"] == 11
    assert dropped["memory"] == dropped["malformed"] == 0


def test_only_some_capabilities(tree: Tree) -> None:
    with KernelEvents.open(cgroup_id(tree.watched), 2, only=frozenset({"exit"})) as events:
        assert events.programs() == ["acg_on_exit_perf"]
        assert events.capabilities() == ["exit"]
        tree.run(tree.leaf, "/bin/true")
        Collector(events).wait(ExitEvent)
        assert not Collector(events).all_of(ExecEvent)


def test_opens_in_time_and_within_the_verifiers_budget(tree: Tree) -> None:
    start = time.monotonic()
    with KernelEvents.open(cgroup_id(tree.watched), 2) as events:
        took_s = time.monotonic() - start
        print(f"open: {took_s:.2f} s")
        for name, info in events.program_info().items():
            print(f"{name}: {info.verified_instructions} instructions verified")
            assert 0 < info.verified_instructions <= VERIFIER_BUDGET[name], name
    assert took_s < OPEN_BUDGET_S


def test_the_exec_boundary_is_within_the_verifiers_budget() -> None:
    with contextlib.closing(ExecBoundary.open("test", 1_000_000_000)) as opened:
        assert opened.programs() == ["acg_boundary_perf"]
        for name, info in opened.program_info().items():
            print(name, info)
            assert 0 < info.verified_instructions <= VERIFIER_BUDGET[name]


def test_in_an_event_loop(tree: Tree, events: KernelEvents) -> None:
    async def first_exit() -> ExitEvent:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[ExitEvent] = loop.create_future()

        def readable() -> None:
            for event in events.read():
                if isinstance(event, ExitEvent) and not found.done():
                    found.set_result(event)

        loop.add_reader(events.fileno(), readable)
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", "read go; exit 5", stdin=asyncio.subprocess.PIPE
            )
            (tree.leaf / "cgroup.procs").write_text(str(process.pid))
            await process.communicate(b"go\n")
            return await asyncio.wait_for(found, DEADLINE_S)
        finally:
            loop.remove_reader(events.fileno())

    assert asyncio.run(first_exit()).exit_code == 5


def test_close_wakes_a_sleeper_and_detaches(tree: Tree) -> None:
    events = KernelEvents.open(cgroup_id(tree.watched), 2, only=frozenset({"exec"}))
    woken = threading.Event()

    def sleep() -> None:
        select.select([events.fileno()], [], [], DEADLINE_S)
        woken.set()

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    time.sleep(0.05)
    events.close()
    events.close()
    assert woken.wait(DEADLINE_S)
    sleeper.join()
    assert events.read() == []


def test_a_root_too_deep_is_refused(events: KernelEvents) -> None:
    with pytest.raises(InvalidValueError, match="root_level"):
        events.add_root(1, 32)
