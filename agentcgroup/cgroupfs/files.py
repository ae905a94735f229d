# SPDX-License-Identifier: Apache-2.0
"""Names of the control files this package touches, and nothing else.

Source: kernel Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from typing import Final

CGROUP_CONTROLLERS: Final = "cgroup.controllers"
CGROUP_EVENTS: Final = "cgroup.events"
CGROUP_FREEZE: Final = "cgroup.freeze"
CGROUP_KILL: Final = "cgroup.kill"
CGROUP_MAX_DEPTH: Final = "cgroup.max.depth"
CGROUP_MAX_DESCENDANTS: Final = "cgroup.max.descendants"
CGROUP_PROCS: Final = "cgroup.procs"
CGROUP_STAT: Final = "cgroup.stat"
CGROUP_SUBTREE_CONTROL: Final = "cgroup.subtree_control"
CGROUP_THREADS: Final = "cgroup.threads"
CGROUP_TYPE: Final = "cgroup.type"

CPU_IDLE: Final = "cpu.idle"
CPU_MAX: Final = "cpu.max"
CPU_PRESSURE: Final = "cpu.pressure"
CPU_STAT: Final = "cpu.stat"
CPU_WEIGHT: Final = "cpu.weight"

IO_BFQ_WEIGHT: Final = "io.bfq.weight"
IO_COST_QOS: Final = "io.cost.qos"
IO_MAX: Final = "io.max"
IO_PRESSURE: Final = "io.pressure"
IO_STAT: Final = "io.stat"
IO_WEIGHT: Final = "io.weight"

MEMORY_CURRENT: Final = "memory.current"
MEMORY_EVENTS: Final = "memory.events"
MEMORY_EVENTS_LOCAL: Final = "memory.events.local"
MEMORY_HIGH: Final = "memory.high"
MEMORY_LOW: Final = "memory.low"
MEMORY_MAX: Final = "memory.max"
MEMORY_MIN: Final = "memory.min"
MEMORY_OOM_GROUP: Final = "memory.oom.group"
MEMORY_PEAK: Final = "memory.peak"
MEMORY_PRESSURE: Final = "memory.pressure"
MEMORY_RECLAIM: Final = "memory.reclaim"
MEMORY_STAT: Final = "memory.stat"
MEMORY_SWAP_CURRENT: Final = "memory.swap.current"
MEMORY_SWAP_EVENTS: Final = "memory.swap.events"
MEMORY_SWAP_MAX: Final = "memory.swap.max"
MEMORY_SWAP_PEAK: Final = "memory.swap.peak"

PIDS_CURRENT: Final = "pids.current"
PIDS_EVENTS: Final = "pids.events"
PIDS_MAX: Final = "pids.max"
PIDS_PEAK: Final = "pids.peak"

MAX: Final = "max"
