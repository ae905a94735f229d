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
from .state import CallState, PolicyState

__all__ = ["end_exhausted", "exhausted_at_ns"]

_LEAST_BYTES = MIB


def exhausted_at_ns(state: PolicyState, call: CallState) -> int | None:
    """When its wait is over unless its session gets more; None if it may hope."""
    since = call.blocked_since_ns
    if not call.runs or since is None or call.grant_bytes >= call.cap_bytes:
        return None
    room = room_alone_bytes(state, state.sessions[call.session])
    if call.held_bytes + _LEAST_BYTES <= room:
        return None
    return since + state.config.deadlock_after_ns


def end_exhausted(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    for call in list(state.waiting.values()):
        at_ns = exhausted_at_ns(state, call)
        if at_ns is None or now_ns < at_ns:
            continue
        because = _because(state, call)
        # What it was killed at: its command comes again with that in mind (repeats).
        call.cap_bytes = int(because.figures["room_bytes"])
        call.exhausted = True
        kill_call(state, call, Reason.OOM_KILLED, because, out)


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
