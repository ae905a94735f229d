# SPDX-License-Identifier: Apache-2.0
"""What is told about a session: its record, its policy state and the kernel's figures. Bytes."""

from __future__ import annotations

import asyncio

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..protocol.messages import BudgetResult, SessionInfo
from ..types.sessions import Boundary
from .core import Core
from .figures import live_figures
from .records import SessionRecord

__all__ = ["READ_AT_ONCE", "current_int", "session_budget", "session_info", "session_list"]

# Reports of many cgroups leave the event loop to others after so many.
READ_AT_ONCE = 16


async def session_list(core: Core, *, figures: bool = False) -> list[SessionInfo]:
    found: list[SessionInfo] = []
    for number, record in enumerate(list(core.sessions.values()), start=1):
        if record.name in core.sessions:
            found.append(session_info(core, record, figures=figures))
        if number % READ_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def session_info(core: Core, record: SessionRecord, *, figures: bool = False) -> SessionInfo:
    """The protocol's *session*. Reads memory.current and cgroup.procs; `figures` cost more."""
    state = core.state.sessions.get(record.name)
    calls = list(record.calls.values())
    return SessionInfo(
        name=record.name,
        kind=record.kind.value,
        priority=record.spec.priority.value,
        mode=record.mode.value,
        boundary=(record.spec.boundary or Boundary.DECLARED).value,
        containment=record.containment,
        containment_reason=record.containment_reason,
        cgroup=record.cgroup.path,
        container=record.container,
        paused=record.paused,
        ephemeral=record.spec.ephemeral,
        memory_bytes=record.spec.memory,
        memory_reserve_bytes=record.reserve_bytes,
        memory_current_bytes=current_int(record.cgroup, files.MEMORY_CURRENT),
        granted_bytes=sum(c.grant_bytes for c in state.calls.values()) if state else 0,
        cpu=record.spec.cpu,
        pids_max=record.pids_max,
        agent_pids=_procs(record.agent) or ([record.bound_agent.pid] if record.bound_agent else []),
        background_pids=_procs(record.background) if record.background else [],
        calls=[c.name for c in calls if c.leaf is not None],
        queued=sum(1 for c in calls if c.leaf is None),
        created_epoch_s=record.created_epoch_s,
        labels=record.spec.labels,
        steps=record.steps,
        energy_j=record.energy_j,
        **(live_figures(record.cgroup) if figures else {}),
    )


def session_budget(core: Core, record: SessionRecord) -> BudgetResult:
    info = session_info(core, record)
    free = None
    if record.spec.memory is not None:
        tools_max = record.spec.memory - record.reserve_bytes
        free = max(0, tools_max - info.granted_bytes)
    return BudgetResult(
        session=record.name,
        memory_bytes=info.memory_bytes,
        memory_free_bytes=free,
        granted_bytes=info.granted_bytes,
        memory_current_bytes=info.memory_current_bytes,
        cpu=info.cpu,
        calls=len(info.calls),
        queued=info.queued,
    )


def _procs(cgroup: CgroupLike) -> list[int]:
    try:
        return cgroup.procs()
    except OSError:
        return []


def current_int(cgroup: CgroupLike, file: str) -> int | None:
    text = cgroup.try_read(file)
    return int(text) if text and text.isdigit() else None
