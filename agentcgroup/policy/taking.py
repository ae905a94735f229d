# SPDX-License-Identifier: Apache-2.0
"""Unused parts of other grants, for who needs them more. Bytes.

They are taken for a try: given back when the one they were taken for can't use them after
all, told as actions when it can.
"""

from __future__ import annotations

from ..types.actions import Action, Because, Code, SetGrant
from .accounting import (
    barely_unused_bytes,
    fair_share_bytes,
    host_free_bytes,
    session_free_bytes,
    unused_bytes,
)
from .state import CallState, PolicyState

__all__ = ["Taken", "give_back", "take_unused", "tell_taken"]

Taken = list[tuple[CallState, int]]
"""Calls, and the grant in bytes that each had before."""


def take_unused(state: PolicyState, taker: CallState, need_bytes: int) -> Taken:
    """What lies beyond the fair share of its session first, for that is anybody's; then those
    of lower priorities; then half of what equals did not declare (not all of it: who has just
    begun is about to use it)."""
    session = state.sessions[taker.session]
    tight_session = session_free_bytes(state, session) <= host_free_bytes(state)
    others = [
        c
        for c in state.calls.values()
        if c is not taker
        and barely_unused_bytes(c)  # the most that can be taken in any way
        and (not tight_session or c.session == taker.session)
    ]
    others.sort(key=lambda c: (-_rank(state, c), -c.grant_bytes, c.name))
    taken: Taken = []
    for takeable_bytes in (_beyond_share_bytes, _of_lower_bytes, _of_equal_bytes):
        for call in others:
            take = min(need_bytes, takeable_bytes(state, call, taker))
            if take <= 0:
                continue
            taken.append((call, call.grant_bytes))
            call.grant_bytes -= take
            state.note_held(call)
            need_bytes -= take
            if need_bytes <= 0:
                return taken
    return taken


def give_back(state: PolicyState, taken: Taken) -> None:
    for call, before_bytes in reversed(taken):
        call.grant_bytes = before_bytes
        state.note_held(call)


def tell_taken(taker: CallState, taken: Taken, out: list[Action]) -> None:
    for call in {call.name: call for call, _ in taken}.values():
        because = Because(Code.YIELD_TO_HIGHER, f"its unused part went to {taker.name}")
        out.append(SetGrant(call.session, call.name, call.grant_bytes, because))


def _beyond_share_bytes(state: PolicyState, call: CallState, taker: CallState) -> int:
    owner = state.sessions[call.session]
    beyond = owner.held_bytes - fair_share_bytes(state, owner)
    return min(unused_bytes(state, call, keep_declared=False), beyond)


def _of_lower_bytes(state: PolicyState, call: CallState, taker: CallState) -> int:
    if _rank(state, call) <= _rank(state, taker):
        return 0
    return barely_unused_bytes(call)


def _of_equal_bytes(state: PolicyState, call: CallState, taker: CallState) -> int:
    if _rank(state, call) != _rank(state, taker):
        return 0
    return unused_bytes(state, call, keep_declared=True) // 2


def _rank(state: PolicyState, call: CallState) -> int:
    return state.sessions[call.session].priority.rank
