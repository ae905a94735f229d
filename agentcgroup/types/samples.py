# SPDX-License-Identifier: Apache-2.0
"""Readings of a cgroup at one time. Counters rise; `None` = the file was not there."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CgroupSample", "MemoryEvents"]


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """Counts of memory.events or memory.events.local."""

    low: int = 0
    high: int = 0
    max: int = 0
    oom: int = 0
    oom_kill: int = 0
    oom_group_kill: int = 0


@dataclass(frozen=True, slots=True)
class CgroupSample:
    """One cgroup at `t_ns` (CLOCK_MONOTONIC)."""

    t_ns: int
    memory_current_bytes: int | None = None
    memory_peak_bytes: int | None = None
    swap_current_bytes: int | None = None
    anon_bytes: int | None = None
    file_bytes: int | None = None
    shmem_bytes: int | None = None
    events: MemoryEvents | None = None
    cpu_usage_us: int | None = None
    cpu_throttled_us: int | None = None
    pids_current: int | None = None
    pids_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    memory_some_total_us: int | None = None
    memory_full_total_us: int | None = None
