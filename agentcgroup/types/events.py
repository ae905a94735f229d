# SPDX-License-Identifier: Apache-2.0
"""What the kernel reported, whichever layer heard it (BPF, cgroup files, PSI).

`t_ns` is CLOCK_MONOTONIC. A cgroup id is the inode number of its directory, which is
what BPF sees. `None` means the source could not tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "BoundaryEvent", "ExecEvent", "ExitEvent", "KernelEvent", "MemoryEvent", "MemoryKind",
    "OomEvent",
]  # fmt: skip


class MemoryKind(StrEnum):
    """Names of memory.events where there is one; `reclaim` and `charge_failed` by BPF only."""

    LOW = "low"
    HIGH = "high"
    MAX = "max"
    OOM = "oom"
    OOM_KILL = "oom_kill"
    OOM_GROUP_KILL = "oom_group_kill"
    RECLAIM = "reclaim"
    CHARGE_FAILED = "charge_failed"
    PRESSURE = "pressure"


@dataclass(frozen=True, slots=True)
class ExecEvent:
    t_ns: int
    pid: int
    tgid: int
    ppid: int
    cgroup_id: int
    command: str
    filename: str


@dataclass(frozen=True, slots=True)
class ExitEvent:
    """A process (thread group) ended; exactly one of exit_code and signal is set."""

    t_ns: int
    pid: int
    cgroup_id: int
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class OomEvent:
    """`cgroup_id` is the memcg that hit its limit, 0 for the whole host."""

    t_ns: int
    cgroup_id: int
    victim_pid: int
    victim_cgroup_id: int
    victim_command: str
    victim_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    t_ns: int
    cgroup_id: int
    kind: MemoryKind
    usage_bytes: int | None = None
    high_bytes: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BoundaryEvent:
    """A process of an agent became a program that begins a tool call.

    `cgroup_id` is the agent's. `start_ticks`: of its birth, as /proc/PID/stat has it. `stopped`:
    it stands still until it is continued. `shell_pid`: the persistent shell that it descends
    from, None if none.
    """

    t_ns: int
    pid: int
    ppid: int
    start_ticks: int
    cgroup_id: int
    command: str
    filename: str
    stopped: bool
    shell_pid: int | None = None


KernelEvent = ExecEvent | ExitEvent | OomEvent | MemoryEvent | BoundaryEvent
