# SPDX-License-Identifier: Apache-2.0
"""A call that holds all its session or its host could ever give it, and wants more. Pure.

Its cap was drawn when it began; since then the agent has grown into it. No wait would help
and no other call's death would, so it is out of memory like one that reached its cap, and
told so: its agent has to change something. Bytes and nanoseconds.
"""

from __future__ import annotations

from ..types.actions import Action, Because, Code
from ..types.outcomes import Reason
from ..units import MIB, format_bytes
from .accounting import room_alone_bytes
from .grants import kill_call
from .reclaim import RECLAIMABLE_BYTES
from .state import CallState, PolicyState

__all__ = ["end_exhausted", "exhausted_at_ns"]

_LEAST_BYTES = MIB


def exhausted_at_ns(state: PolicyState, call: CallState) -> int | None:
    """When the next look at it is due: to note that nothing more can come, at once, or to end it;
    None if it may hope."""
    if call.blocked_since_ns is None or not _is_exhausted(state, call):
        return None
    if call.full_since_ns is None:
        return call.blocked_since_ns
    return call.full_since_ns + state.config.deadlock_after_ns


def end_exhausted(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    """A second without hope, from when there was none: one high reading kills nobody."""
    for call in list(state.waiting.values()):
        if not _is_exhausted(state, call):
            call.full_since_ns = None
            continue
        if call.full_since_ns is None:
            call.full_since_ns = now_ns
        if now_ns - call.full_since_ns < state.config.deadlock_after_ns:
            continue
        because = _because(state, call)
        # What it was killed at: its command comes again with that in mind (repeats).
        call.cap_bytes = int(because.figures["room_bytes"])
        call.exhausted = True
        kill_call(state, call, Reason.OOM_KILLED, because, out)


def _is_exhausted(state: PolicyState, call: CallState) -> bool:
    """It has all that could be had, and none of it would come back from itself."""
    if not call.runs or call.blocked_since_ns is None or call.grant_bytes >= call.cap_bytes:
        return False
    if call.reclaimable_bytes >= RECLAIMABLE_BYTES:
        return False
    room = room_alone_bytes(state, state.sessions[call.session])
    return call.held_bytes + _LEAST_BYTES > room


def _because(state: PolicyState, call: CallState) -> Because:
    session = state.sessions[call.session]
    room = room_alone_bytes(state, session)
    own = session.budget_bytes
    by_session = own is not None and own - session.overhead_bytes <= room
    kept = session.overhead_bytes if by_session else state.overhead_bytes
    figures = {"room_bytes": room, "kept_bytes": kept, "held_bytes": call.held_bytes}
    if by_session:
        text = (
            f"the session has {format_bytes(room)} for tool calls beside {format_bytes(kept)}"
            " of its agent, background processes and files in tmpfs, and this one needed more"
        )
        return Because(Code.SESSION_FULL, text, figures)
    text = (
        f"the host has {format_bytes(room)} for tool calls beside {format_bytes(kept)} of"
        " sessions' agents, background processes and files in tmpfs, and this one needed more"
    )
    return Because(Code.HOST_FULL, text, figures)
