# SPDX-License-Identifier: Apache-2.0
"""Can everybody who runs still finish? The banker's question (Dijkstra, EWD 108), asked before
memory is granted in parts. Bytes.

A call that declared what it needs gets less than that only if some order is left in which
each running call gets the rest in its turn. Of a call that declared nothing, or is beyond what
it declared, nothing is assumed: it may finish with what it holds.
"""

from __future__ import annotations

from ..types.sessions import Mode
from .accounting import host_free_bytes, session_free_bytes
from .state import CallState, PolicyState

__all__ = ["can_all_finish", "has_what_it_declared", "is_safe_with", "missing_bytes"]


def missing_bytes(state: PolicyState, call: CallState) -> int:
    """What it declared and does not hold yet."""
    declared = call.intent.memory
    if declared is None or not call.runs or call.peak_bytes > declared:
        return 0
    if state.sessions[call.session].mode is not Mode.ENFORCE:
        return 0
    return max(0, min(declared, call.cap_bytes) - call.held_bytes)


def has_what_it_declared(call: CallState) -> bool:
    declared = call.intent.memory
    return declared is not None and call.peak_bytes <= declared <= call.grant_bytes


def is_safe_with(state: PolicyState, call: CallState, *, took: bool) -> bool:
    """With what `call` has just been given for a try, and `took` from others or not. Who gets
    all that it declared, or declared nothing, can finish before all others."""
    return not (took or missing_bytes(state, call)) or can_all_finish(state)


def can_all_finish(state: PolicyState) -> bool:
    host_free = host_free_bytes(state)
    free = {name: session_free_bytes(state, session) for name, session in state.active.items()}
    waiting = sorted(
        (missing_bytes(state, call), call.held_bytes, call.session) for call in state.calls.values()
    )
    while waiting:
        left = []
        for missing, held, session in waiting:
            if missing and (missing > host_free or missing > free[session]):
                left.append((missing, held, session))
            else:
                host_free += held
                free[session] += held
        if len(left) == len(waiting):
            return False
        waiting = left
    return True
