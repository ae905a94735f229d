# SPDX-License-Identifier: Apache-2.0
"""Readings of one cgroup. A file that is not there, or a gone cgroup, gives None fields.

The cheap sample costs two files; `detail` costs ten and makes the kernel flush its
per-CPU counters (memory.stat, cpu.stat), so it is for ends of calls and slow ticks.
"""

from __future__ import annotations

import functools

from ..types.samples import CgroupSample, MemoryEvents
from . import files, parse
from .api import CgroupLike

__all__ = ["read_memory_events", "read_sample"]


def read_memory_events(cg: CgroupLike, local: bool = True) -> MemoryEvents | None:
    """Counts of this cgroup alone (`local`) or with its descendants; None if not there.

    oom_kill is no number of processes: with memory.oom.group the kernel counts the
    victim it chose twice.
    """
    text = cg.try_read(files.MEMORY_EVENTS_LOCAL if local else files.MEMORY_EVENTS)
    return None if text is None else _events(text)


def read_sample(cg: CgroupLike, t_ns: int, *, detail: bool) -> CgroupSample:
    """Memory in use and its local events; with `detail` everything a sample holds.

    `events` are local: a limit hit below this cgroup counts there, not here.
    """
    current = _integer(cg.try_read(files.MEMORY_CURRENT))
    events = read_memory_events(cg, local=True)
    if not detail:
        return CgroupSample(t_ns, memory_current_bytes=current, events=events)
    stat = parse.flat_keyed(cg.try_read(files.MEMORY_STAT) or "")
    cpu = parse.flat_keyed(cg.try_read(files.CPU_STAT) or "")
    psi = parse.pressure(cg.try_read(files.MEMORY_PRESSURE) or "")
    read_bytes, write_bytes = _io_bytes(cg.try_read(files.IO_STAT))
    some, full = psi.get("some"), psi.get("full")
    return CgroupSample(
        t_ns,
        memory_current_bytes=current,
        memory_peak_bytes=_integer(cg.try_read(files.MEMORY_PEAK)),
        swap_current_bytes=_integer(cg.try_read(files.MEMORY_SWAP_CURRENT)),
        anon_bytes=stat.get("anon"),
        file_bytes=stat.get("file"),
        shmem_bytes=stat.get("shmem"),
        events=events,
        cpu_usage_us=cpu.get("usage_usec"),
        cpu_throttled_us=cpu.get("throttled_usec"),
        pids_current=_integer(cg.try_read(files.PIDS_CURRENT)),
        pids_peak=_integer(cg.try_read(files.PIDS_PEAK)),
        io_read_bytes=read_bytes,
        io_write_bytes=write_bytes,
        memory_some_total_us=some.total_us if some else None,
        memory_full_total_us=full.total_us if full else None,
    )


def _integer(text: str | None) -> int | None:
    return None if text is None else parse.int_or_max(text)


@functools.lru_cache(maxsize=4096)
def _events(text: str) -> MemoryEvents:
    """Cached: between two ticks the text of most cgroups stays the same."""
    counts = parse.flat_keyed(text)
    return MemoryEvents(
        low=counts.get("low", 0),
        high=counts.get("high", 0),
        max=counts.get("max", 0),
        oom=counts.get("oom", 0),
        oom_kill=counts.get("oom_kill", 0),
        oom_group_kill=counts.get("oom_group_kill", 0),
    )


def _io_bytes(text: str | None) -> tuple[int | None, int | None]:
    """Read and written, over all devices. An idle cgroup's io.stat is empty: zero."""
    if text is None:
        return None, None
    totals = [0, 0]
    for fields in parse.nested_keyed(text).values():
        for slot, key in enumerate(("rbytes", "wbytes")):
            value = fields.get(key, "")
            if value.isdecimal():
                totals[slot] += int(value)
    return totals[0], totals[1]
