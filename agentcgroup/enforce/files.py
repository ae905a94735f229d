# SPDX-License-Identifier: Apache-2.0
"""Layer `files`: limits and actions as writes to cgroup v2 files. Always there.

Raising a grant does not wake a task that already sleeps in its over-high penalty, so a
raise is followed by freeze 1/0 where the kernel reported `high` since the last one.
Lowering memory.high reclaims inside write(), so it never runs on the event loop's
thread (kernel mm/memcontrol.c, memory_high_write).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError, NotSupportedError
from ..log import get_logger, warn_once
from ..types.limits import Limits
from ..types.outcomes import Level

__all__ = [
    "CPU_PERIOD_US", "apply_limits", "change_limits", "cpu_max_text", "kill", "lift_limits",
    "set_grant", "wake",
]  # fmt: skip

CPU_PERIOD_US = 100_000
_DEFAULT_WEIGHT = 100
_log = get_logger(__name__)


def apply_limits(leaf: CgroupLike, limits: Limits) -> None:
    """Write every limit of a fresh leaf; files at the kernel's default are left alone."""
    _write(leaf, files.MEMORY_MAX, _bytes_text(limits.memory_max_bytes))
    _write(leaf, files.MEMORY_HIGH, _bytes_text(limits.memory_high_bytes))
    _write(leaf, files.MEMORY_SWAP_MAX, str(limits.swap_max_bytes))
    _write(leaf, files.PIDS_MAX, str(limits.pids_max))
    if limits.oom_group:
        _write(leaf, files.MEMORY_OOM_GROUP, "1")
    if limits.cpu_weight != _DEFAULT_WEIGHT:
        _write(leaf, files.CPU_WEIGHT, str(limits.cpu_weight))
    if limits.cpu_max_cores is not None:
        _write(leaf, files.CPU_MAX, cpu_max_text(limits.cpu_max_cores))
    if limits.io_weight != _DEFAULT_WEIGHT:
        _write(leaf, files.IO_WEIGHT, f"default {limits.io_weight}")


def change_limits(leaf: CgroupLike, old: Limits, new: Limits) -> None:
    """Write what differs. The grant is not among them: set_grant does that one."""
    if new.memory_max_bytes != old.memory_max_bytes:
        _write(leaf, files.MEMORY_MAX, _bytes_text(new.memory_max_bytes))
    if new.swap_max_bytes != old.swap_max_bytes:
        _write(leaf, files.MEMORY_SWAP_MAX, str(new.swap_max_bytes))
    if new.pids_max != old.pids_max:
        _write(leaf, files.PIDS_MAX, str(new.pids_max))
    if new.cpu_weight != old.cpu_weight:
        _write(leaf, files.CPU_WEIGHT, str(new.cpu_weight))
    if new.cpu_max_cores != old.cpu_max_cores:
        _write(leaf, files.CPU_MAX, cpu_max_text(new.cpu_max_cores))
    if new.io_weight != old.io_weight:
        _write(leaf, files.IO_WEIGHT, f"default {new.io_weight}")


def lift_limits(leaf: CgroupLike) -> None:
    """No limit of ours holds the leaf any more; what was frozen runs on."""
    for file in (files.MEMORY_HIGH, files.MEMORY_MAX, files.MEMORY_SWAP_MAX, files.PIDS_MAX):
        _write(leaf, file, files.MAX)
    _write(leaf, files.CPU_MAX, cpu_max_text(None))
    leaf.freeze(False)


def kill(leaf: CgroupLike, limits: Limits) -> None:
    """Everything in it, at once: without cpu.max, for what is killed needs CPU to end.

    OSError when the kernel refuses the kill.
    """
    if limits.cpu_max_cores is not None:
        with contextlib.suppress(OSError):
            leaf.write(files.CPU_MAX, cpu_max_text(None))
    leaf.kill()


def set_grant(leaf: CgroupLike, grant_bytes: int | None) -> None:
    """memory.high. Lowering may reclaim for a long time: call it from a worker then."""
    _write(leaf, files.MEMORY_HIGH, _bytes_text(grant_bytes))


def wake(leaf: CgroupLike) -> None:
    """End the over-high sleep of the leaf's tasks. Never on a leaf policy holds frozen."""
    leaf.freeze(True)
    leaf.freeze(False)


def reclaim(leaf: CgroupLike, amount_bytes: int) -> None:
    """Ask the kernel to reclaim; getting less than asked for (EAGAIN) is no failure."""
    try:
        leaf.write(files.MEMORY_RECLAIM, str(amount_bytes))
    except BlockingIOError:
        return
    except NotSupportedError:
        warn_once(_log, "memory.reclaim is missing in this kernel: page cache stays until needed")


def oom_level(
    local: Mapping[str, int], ancestors: Sequence[tuple[Level, CgroupLike, int]]
) -> Level:
    """The level whose limit killed in a leaf with these `local` events.

    `ancestors` go upwards, each with its count of before. memory.events.local counts
    `oom` where the limit was, `oom_kill` where the victim was.
    """
    if local.get("oom", 0):
        return Level.CALL
    for level, cgroup, before in ancestors:
        if oom_count(cgroup) > before:
            return level
    return Level.HOST


def oom_count(cgroup: CgroupLike) -> int:
    try:
        return cgroup.keyed(files.MEMORY_EVENTS_LOCAL).get("oom", 0)
    except (CgroupGoneError, NotSupportedError):
        return 0


def cpu_max_text(cores: float | None) -> str:
    if cores is None:
        return f"max {CPU_PERIOD_US}"
    return f"{max(1000, round(cores * CPU_PERIOD_US))} {CPU_PERIOD_US}"


def _bytes_text(value: int | None) -> str:
    return files.MAX if value is None else str(value)


def _write(leaf: CgroupLike, file: str, text: str) -> None:
    """A controller that is not there costs one clear line, the other limits stay."""
    try:
        leaf.write(file, text)
    except NotSupportedError:
        warn_once(_log, f"{file} is missing here: this limit has no effect on this host")
