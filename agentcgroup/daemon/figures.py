# SPDX-License-Identifier: Apache-2.0
"""What the kernel counted for a call, read once when it ends.

This is the hot path of every call: six small files, and more only where they can say
something (memory.stat and memory.swap.events after a kill for memory). Source: kernel
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from typing import Any

from ..cgroupfs import files, parse
from ..cgroupfs.api import CgroupLike
from ..enforce.files import oom_count, oom_level
from ..types.outcomes import Level, Reason
from .records import CallRecord, SessionRecord

__all__ = ["figures", "live_figures", "oom_counts"]


def oom_counts(session: SessionRecord, root: CgroupLike) -> tuple[int, int, int]:
    """OOM events so far at tools/, session and tree: what rises later names the level."""
    return oom_count(session.tools), oom_count(session.cgroup), oom_count(root)


def figures(
    record: CallRecord, session: SessionRecord, leaf: CgroupLike, root: CgroupLike
) -> dict[str, Any]:
    """Fields of EndFacts."""
    pids_peak, hits = _integer(leaf, files.PIDS_PEAK), 0
    if pids_peak is None or pids_peak >= record.limits.pids_max:
        hits = parse.flat_keyed(leaf.try_read(files.PIDS_EVENTS) or "").get("max", 0)
    found = {
        "peak_memory_bytes": _integer(leaf, files.MEMORY_PEAK) or record.last_current_bytes or None,
        "memory_limit_bytes": record.limits.memory_max_bytes,
        "cpu_s": _cpu_s(leaf),
        "throttled_ms": _stalled_ms(leaf),
        "pids_peak": pids_peak,
        "pids_limit_hits": hits,
        "io_bytes": _io_bytes(leaf),
    }
    local = parse.flat_keyed(leaf.try_read(files.MEMORY_EVENTS_LOCAL) or "")
    if local.get("oom_kill") or local.get("oom_group_kill"):
        found.update(_explained_oom(record, session, leaf, root, local))
    elif record.killed in (Reason.KILLED_BY_POLICY, Reason.OOM_KILLED):
        found.update(_files_in_memory(session, leaf))
    return found


def live_figures(cgroup: CgroupLike) -> dict[str, float | None]:
    """Of a running call or a session, for who asks: two files."""
    some = parse.pressure(cgroup.try_read(files.MEMORY_PRESSURE) or "").get("some")
    return {
        "cpu_s": _cpu_s(cgroup),
        "throttled_ms": some.total_us / 1000 if some else None,
        "pressure_avg10_pct": some.avg10_pct if some else None,
    }


def _explained_oom(
    record: CallRecord,
    session: SessionRecord,
    leaf: CgroupLike,
    root: CgroupLike,
    local: dict[str, int],
) -> dict[str, Any]:
    tools, own, host = record.oom_before
    level = oom_level(
        local,
        [
            (Level.TOOLS, session.tools, tools),
            (Level.SESSION, session.cgroup, own),
            (Level.HOST, root, host),
        ],
    )
    session.oom_counts = oom_counts(session, root)
    limit = record.limits.memory_max_bytes
    if level is Level.TOOLS:
        limit = _integer(session.tools, files.MEMORY_MAX)
    swap = parse.flat_keyed(leaf.try_read(files.MEMORY_SWAP_EVENTS) or "")
    return {
        "oom_level": level,
        "memory_limit_bytes": limit,
        "swap_limit_hits": swap.get("fail", 0),
        **_files_in_memory(session, leaf),
    }


def _files_in_memory(session: SessionRecord, leaf: CgroupLike) -> dict[str, Any]:
    """Its processes are gone; what is still charged to the leaf are files."""
    own = parse.flat_keyed(leaf.try_read(files.MEMORY_STAT) or "")
    shmem_bytes = own.get("shmem", 0)
    below_tools = parse.flat_keyed(session.tools.try_read(files.MEMORY_STAT) or "")
    return {
        "shmem_bytes": shmem_bytes,
        "cache_bytes": own.get("file", 0) - shmem_bytes,
        "left_shmem_bytes": below_tools.get("shmem", 0) - shmem_bytes,
    }


def _integer(cgroup: CgroupLike, file: str) -> int | None:
    text = cgroup.try_read(file)
    return int(text) if text is not None and text.isdecimal() else None


def _cpu_s(cgroup: CgroupLike) -> float | None:
    """`usage_usec` is the first line of cpu.stat."""
    name, _, value = (cgroup.try_read(files.CPU_STAT) or "").partition("\n")[0].partition(" ")
    return int(value) / 1e6 if name == "usage_usec" else None


def _stalled_ms(leaf: CgroupLike) -> float | None:
    """Time in which a task of the call waited for memory: PSI's some total."""
    some = parse.pressure(leaf.try_read(files.MEMORY_PRESSURE) or "").get("some")
    return None if some is None else some.total_us / 1000


def _io_bytes(leaf: CgroupLike) -> int | None:
    text = leaf.try_read(files.IO_STAT)
    if text is None:
        return None
    devices = parse.nested_keyed(text).values() if text else ()
    return sum(int(d.get("rbytes", 0)) + int(d.get("wbytes", 0)) for d in devices)
