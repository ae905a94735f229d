# SPDX-License-Identifier: Apache-2.0
"""The in-memory hierarchy beyond the contract: what a host's memory and disks would decide."""

from __future__ import annotations

import errno

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.units import MIB


@pytest.fixture
def root() -> FakeCgroup:
    return FakeCgroup.delegated(FakeKernel())


@pytest.fixture
def call(root: FakeCgroup) -> FakeCgroup:
    root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
    return root.create("call")


def test_page_cache_stays_and_goes_to_the_parent(root: FakeCgroup, call: FakeCgroup) -> None:
    kernel = root.kernel
    pid = kernel.spawn(call.node)
    assert kernel.charge(pid, 10 * MIB, cache=True)
    kernel.exit(pid)
    assert call.read_int(files.MEMORY_CURRENT) == 10 * MIB
    call.remove()
    assert root.read_int(files.MEMORY_CURRENT) == 10 * MIB
    assert root.keyed(files.MEMORY_STAT)["file"] == 10 * MIB


def test_limit_takes_cache_before_it_kills(root: FakeCgroup, call: FakeCgroup) -> None:
    kernel = root.kernel
    call.write(files.MEMORY_MAX, "16M")
    pid = kernel.spawn(call.node)
    assert kernel.charge(pid, 12 * MIB, cache=True)
    assert kernel.charge(pid, 12 * MIB)
    assert call.read_int(files.MEMORY_CURRENT) == 16 * MIB
    assert call.keyed(files.MEMORY_EVENTS_LOCAL)["max"] == 1
    assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom"] == 0


def test_reclaim_says_when_it_fell_short(root: FakeCgroup, call: FakeCgroup) -> None:
    kernel = root.kernel
    pid = kernel.spawn(call.node, memory_bytes=8 * MIB)
    kernel.charge(pid, 4 * MIB, cache=True)
    call.write(files.MEMORY_RECLAIM, "2M")
    assert call.read_int(files.MEMORY_CURRENT) == 10 * MIB
    with pytest.raises(BlockingIOError):
        call.write(files.MEMORY_RECLAIM, "4M")
    assert call.write_nonblocking(files.MEMORY_RECLAIM, "1M") is False
    assert call.read_int(files.MEMORY_CURRENT) == 8 * MIB


def test_throttled_until_the_line_is_raised(root: FakeCgroup, call: FakeCgroup) -> None:
    kernel = root.kernel
    call.write(files.MEMORY_HIGH, "8M")
    pid = kernel.spawn(call.node, memory_bytes=9 * MIB)
    assert kernel.processes[pid].throttled
    call.write(files.MEMORY_HIGH, "12M")
    assert not kernel.processes[pid].throttled


def test_frozen_does_nothing(root: FakeCgroup, call: FakeCgroup) -> None:
    kernel = root.kernel
    pid = kernel.spawn(call.node)
    root.freeze(True)
    assert kernel.processes[pid].frozen
    assert not kernel.charge(pid, MIB)
    assert not kernel.run(pid, 1000)
    root.freeze(False)
    assert kernel.run(pid, 1000)
    assert call.keyed(files.CPU_STAT)["usage_usec"] == 1000
    assert root.keyed(files.CPU_STAT)["usage_usec"] == 1000


def test_fork_beyond_pids_max(root: FakeCgroup, call: FakeCgroup) -> None:
    call.write(files.PIDS_MAX, "1")
    root.kernel.spawn(call.node)
    with pytest.raises(BlockingIOError):
        root.kernel.spawn(call.node)
    assert call.keyed(files.PIDS_EVENTS)["max"] == 1
    # A move is not refused: only forks are.
    call.move(root.kernel.spawn(root.create("other").node))
    assert call.read_int(files.PIDS_CURRENT) == 2


def test_oom_takes_the_topmost_group_within_the_limit(root: FakeCgroup) -> None:
    kernel = root.kernel
    root.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
    session = root.create("session")
    session.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
    calls = [session.create("a"), session.create("b")]
    for call in calls:
        call.write(files.MEMORY_OOM_GROUP, "1")
    root.write(files.MEMORY_OOM_GROUP, "1")
    session.write(files.MEMORY_MAX, "16M")
    small = kernel.spawn(calls[0].node, memory_bytes=2 * MIB)
    pair = [kernel.spawn(calls[1].node), kernel.spawn(calls[1].node, memory_bytes=10 * MIB)]
    assert kernel.charge(small, 6 * MIB)
    assert [kernel.processes[pid].alive for pid in [small, *pair]] == [True, False, False]
    assert session.keyed(files.MEMORY_EVENTS_LOCAL)["oom"] == 1
    assert calls[1].keyed(files.MEMORY_EVENTS_LOCAL)["oom_group_kill"] == 1
    assert calls[1].keyed(files.MEMORY_EVENTS_LOCAL)["oom_kill"] == 3


def test_the_real_root_has_no_limits() -> None:
    top = FakeCgroup.root(FakeKernel())
    assert top.try_read(files.MEMORY_MAX) is None
    assert top.try_read(files.CGROUP_EVENTS) is None
    assert top.read(files.CGROUP_CONTROLLERS) == "cpu io memory pids"
    with pytest.raises(OSError) as caught:
        top.remove()
    assert caught.value.errno == errno.EBUSY


def test_io_weight_reads_with_its_default(call: FakeCgroup) -> None:
    call.write(files.IO_WEIGHT, "250")
    assert call.read(files.IO_WEIGHT) == "default 250"
    with pytest.raises(OSError) as caught:
        call.write(files.IO_MAX, "8:0 wbps=1000")
    assert caught.value.errno == errno.ENODEV


def test_a_second_handle_sees_the_same(call: FakeCgroup) -> None:
    other = call.dup()
    call.close()
    other.write(files.MEMORY_MAX, "1M")
    assert other.read_int(files.MEMORY_MAX) == MIB
