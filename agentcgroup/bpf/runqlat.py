# SPDX-License-Identifier: Apache-2.0
"""Run-queue latency in sessions (bpf/runqlat.bcc.c): from runnable to running.

Under any scheduler, also ours: the tracepoints tell of every class of tasks.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..errors import NotSupportedError
from .btf import Btf, Kind, Member
from .instrument import Instrument
from .latency import Latency

__all__ = ["IN_NO_SESSION", "RunQueueLatency", "active_scheduler"]

IN_NO_SESSION = 0
"""What `read` has instead of a cgroup id for tasks outside of the tree."""

_SCHED_EXT_OPS = Path("/sys/kernel/sched_ext/root/ops")
# on_switch first and to the last: it ends waits, and missed ends would make them endless.
_TRACEPOINTS = {
    b"sched_switch": b"on_switch",
    b"sched_wakeup": b"on_wakeup",
    b"sched_wakeup_new": b"on_wakeup",
}
_READ = {
    "task_struct": ("__state", "cgroups", "on_cpu", "pid"),
    "css_set": ("dfl_cgrp",),
    "cgroup": ("ancestors", "kn", "level"),
    "kernfs_node": ("id",),
}
_POINTER_BYTES = 8


class RunQueueLatency(Instrument):
    """Of all tasks of the host. The first `read` ends the measurement."""

    program = "runqlat.bcc.c"
    operations = ("runqlat",)

    def __init__(self, bcc: Any, root_cgroup_id: int, root_level: int) -> None:
        self._schedulers = [active_scheduler()]
        flags = [f"-D{name}={offset},{size}" for name, (offset, size) in _places().items()]
        super().__init__(bcc, root_cgroup_id, root_level, flags)
        self._attached = list(_TRACEPOINTS)

    def _attach(self) -> None:
        for tracepoint, function in _TRACEPOINTS.items():
            self._bpf.attach_raw_tracepoint(tp=tracepoint, fn_name=function)

    def look(self) -> None:
        """Has another scheduler taken over?"""
        scheduler = active_scheduler()
        if scheduler != self._schedulers[-1]:
            self._schedulers.append(scheduler)

    def about(self) -> dict[str, Any]:
        """The scheduler that was active; all, in their order, if it changed meanwhile."""
        return {"scheduler": ", ".join(self._schedulers)}

    def read(self) -> dict[int, dict[str, Latency]]:
        """What was measured; who still waits counts with its wait so far: it may be starved."""
        now_ns = time.monotonic_ns()
        while self._attached:
            self._bpf.detach_raw_tracepoint(self._attached.pop())
        waits_ns: dict[int, list[int]] = {}
        for wait in self._bpf["waiting"].values():
            waits_ns.setdefault(wait.session, []).append(max(0, now_ns - wait.since_ns))
        found = super().read()
        for session, so_far_ns in waits_ns.items():
            latencies = found.setdefault(session, {})
            (name,) = self.operations
            latencies[name] = latencies.get(name, Latency()).joined_by(so_far_ns)
        return found


def active_scheduler() -> str:
    """Name of the sched_ext scheduler in charge, else "kernel"."""
    try:
        return _SCHED_EXT_OPS.read_text(encoding="utf-8").strip() or "kernel"
    except OSError:
        return "kernel"


def _places() -> dict[str, tuple[int, int]]:
    """Offset and size in bytes, by STRUCT_MEMBER: also sizes differ between kernels."""
    btf = Btf.of_kernel()
    try:
        arguments = btf.tracepoint_parameters("sched_switch") or ()
        if arguments[1:3] != ("struct task_struct *",) * 2:
            raise NotSupportedError("the kernel's sched_switch has arguments unknown to runqlat")
        return {
            f"{struct}_{member.name}".upper(): (member.offset_bytes, _size_of(btf, member))
            for struct, names in _READ.items()
            for member in _members_of(btf, struct, names)
        }
    finally:
        btf.close()


def _members_of(btf: Btf, struct: str, names: tuple[str, ...]) -> list[Member]:
    type_id = btf.try_find(struct, Kind.STRUCT)
    members = [] if type_id is None else btf.members(type_id)
    found = {member.name: member for member in members if member.name in names}
    missing = [name for name in names if name not in found]
    if missing:
        raise NotSupportedError(f"the kernel's BTF does not name {struct}.{missing[0]}")
    return list(found.values())


def _size_of(btf: Btf, member: Member) -> int:
    """Of one element of cgroup.ancestors, which has no size of its own: a flexible array."""
    return btf.size_of(member.type_id) or _POINTER_BYTES
