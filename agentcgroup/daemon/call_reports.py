# SPDX-License-Identifier: Apache-2.0
"""What is told about calls: live, ended, nested, or not known."""

from __future__ import annotations

import asyncio
import time

from ..cgroupfs import files
from ..errors import printable
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import CallInfo, ToolEnd
from ..types.outcomes import Outcome, Reason
from ..types.sessions import Mode
from .core import Core
from .figures import live_figures
from .records import CallRecord
from .server_request import RequestContext
from .session_reports import READ_AT_ONCE

__all__ = [
    "ended_info", "live_calls", "live_info", "nested_outcome", "refused_outcome", "unknown_call",
]  # fmt: skip


def unknown_call(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.NOT_FOUND, f"there is no tool call {printable(name)}", field="call", value=name,
        remedy="check its name; outcomes are kept for a while only, and not those of calls"
        " whose session was detached",
    )  # fmt: skip


def live_info(core: Core, record: CallRecord, layers: list[str], *, figures: bool) -> CallInfo:
    """A call that waits or runs. Reads memory.current and cgroup.procs; `figures` cost more."""
    leaf, now_ns = record.leaf, core.clock.now_ns()
    state = "queued" if leaf is None else "running"
    if record.frozen_since_ns is not None:
        state = "frozen"
    age_ms = (now_ns - record.begun_ns) / 1e6
    held_ns = now_ns - record.frozen_since_ns if record.frozen_since_ns is not None else 0
    current = leaf.try_read(files.MEMORY_CURRENT) if leaf else None
    decided = core.state.calls.get(record.name)
    enforced = core.sessions[record.session].mode is Mode.ENFORCE
    return CallInfo(
        call=record.name,
        session=record.session,
        state=state,
        command=record.intent.command,
        label=record.intent.label,
        limits=record.limits.as_dict(),
        layers=layers if enforced and leaf else [],
        grant_bytes=decided.grant_bytes if decided and leaf else None,
        cap_bytes=decided.cap_bytes if decided else None,
        memory_current_bytes=int(current) if current else None,
        pids=leaf.procs() if leaf else [],
        age_s=age_ms / 1e3,
        waited_ms=round(record.waited_ms if leaf else age_ms, 3),
        frozen_ms=round((record.frozen_ns + held_ns) / 1e6, 3),
        because=record.because.text if record.because and state != "running" else None,
        **(live_figures(leaf) | core.scheduled(record) if figures and leaf else {}),
    )


async def live_calls(
    core: Core, session: str | None, layers: list[str], *, limit: int, figures: bool
) -> list[CallInfo]:
    """Of one session or all, newest first. Many take a while: others have their turn."""
    records = [r for r in reversed(core.calls.values()) if session in (None, r.session)]
    found: list[CallInfo] = []
    for number, record in enumerate(records[:limit], start=1):
        if record.name in core.calls:
            found.append(live_info(core, record, layers, figures=figures))
        if number % READ_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def ended_info(outcome: Outcome) -> CallInfo:
    return CallInfo(
        call=outcome.call,
        session=outcome.session,
        state="ended",
        command=outcome.command,
        label=outcome.label,
        waited_ms=outcome.waited_ms,
        outcome=outcome,
    )


def nested_outcome(context: RequestContext, params: ToolEnd) -> Outcome:
    well = params.signal is None and params.exit_code == 0
    return Outcome(
        call=params.call,
        session=context.identity.session or "",
        reason=Reason.COMPLETED if well else Reason.FAILED,
        exit_code=params.exit_code,
        signal=params.signal,
    )


def refused_outcome(record: CallRecord, error: ProtocolError, now_ns: int) -> Outcome:
    """Of a call that policy did not let begin."""
    return Outcome(
        call=record.name, session=record.session, reason=Reason.REFUSED,
        label=record.intent.label, waited_ms=round((now_ns - record.begun_ns) / 1e6, 3),
        message=f"{error}. Remedy: {error.remedy}.", ended_epoch_s=time.time(),
    )  # fmt: skip
