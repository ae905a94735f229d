# SPDX-License-Identifier: Apache-2.0
"""Samples: the cheap one, the whole one, and what is not there."""

from __future__ import annotations

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.cgroupfs.sample import read_memory_events, read_sample
from agentcgroup.types.samples import CgroupSample
from agentcgroup.units import MIB


def _busy_call() -> tuple[FakeCgroup, FakeCgroup]:
    root = FakeCgroup.delegated(FakeKernel())
    root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
    call = root.create("call")
    pid = root.kernel.spawn(call.node, memory_bytes=6 * MIB)
    root.kernel.charge(pid, 2 * MIB, cache=True)
    root.kernel.uncharge(pid, MIB)
    root.kernel.run(pid, 1500)
    return root, call


def test_cheap_sample_reads_two_files() -> None:
    _, call = _busy_call()
    asked: list[str] = []
    plain = call.try_read
    call.try_read = lambda file: (asked.append(file), plain(file))[1]  # type: ignore[method-assign]
    sample = read_sample(call, 17, detail=False)
    assert asked == [files.MEMORY_CURRENT, files.MEMORY_EVENTS_LOCAL]
    assert sample.t_ns == 17
    assert sample.memory_current_bytes == 7 * MIB
    assert sample.events is not None
    assert sample.memory_peak_bytes is None


def test_detail() -> None:
    _, call = _busy_call()
    assert read_sample(call, 1, detail=True) == CgroupSample(
        1,
        memory_current_bytes=7 * MIB,
        memory_peak_bytes=8 * MIB,
        swap_current_bytes=0,
        anon_bytes=5 * MIB,
        file_bytes=2 * MIB,
        shmem_bytes=0,
        events=read_memory_events(call),
        cpu_usage_us=1500,
        cpu_throttled_us=0,
        pids_current=1,
        pids_peak=1,
        io_read_bytes=0,
        io_write_bytes=0,
        memory_some_total_us=0,
        memory_full_total_us=0,
    )


def test_without_controllers_unknown_is_not_zero() -> None:
    root = FakeCgroup.delegated(FakeKernel())
    sample = read_sample(root.create("call"), 1, detail=True)
    assert sample.memory_current_bytes is None
    assert sample.events is None
    assert sample.io_read_bytes is None
    assert sample.pids_current is None
    assert sample.cpu_usage_us == 0
    assert sample.cpu_throttled_us is None


def test_gone_cgroup_gives_an_empty_sample() -> None:
    root, _ = _busy_call()
    call = root.create("gone")
    call.remove()
    assert read_sample(call, 5, detail=True) == CgroupSample(5)
    assert read_memory_events(call) is None


def test_local_events_leave_out_descendants() -> None:
    root, call = _busy_call()
    call.write(files.MEMORY_MAX, "1M")
    local = read_memory_events(root, local=True)
    whole = read_memory_events(root, local=False)
    assert local is not None and whole is not None
    assert (local.oom_kill, whole.oom_kill) == (0, 1)


def test_io_is_summed_over_devices() -> None:
    _, call = _busy_call()
    texts = {files.IO_STAT: "8:0 rbytes=4096 wbytes=1 rios=1\n254:1 rbytes=5 wbytes=x\n7:0 \n"}
    plain = call.try_read
    call.try_read = lambda file: texts.get(file, plain(file))  # type: ignore[method-assign]
    sample = read_sample(call, 1, detail=True)
    assert (sample.io_read_bytes, sample.io_write_bytes) == (4101, 1)
