# SPDX-License-Identifier: Apache-2.0
"""Page cache, and what may be swapped out, before anybody has to stand still. Bytes.

A call that waits is served from calls of its own or lower priority: the kernel would have
reclaimed that at the host's limit as well, but our lines are drawn in what calls hold, cache
included. What came back shows in the victim's next sample and is granted then. Its own comes last:
it goes on below its line then.
"""

from __future__ import annotations

from ..types.actions import Action, Because, Code, Reclaim
from ..types.sessions import Mode
from ..units import MIB, format_bytes
from .accounting import host_free_bytes, session_free_bytes
from .state import CallPhase, CallState, PolicyState

__all__ = ["RECLAIMABLE_BYTES", "anyone_waits", "ask_back"]

RECLAIMABLE_BYTES = 4 * MIB


def anyone_waits(state: PolicyState) -> bool:
    return bool(state.waiting)


def ask_back(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    since = state.reclaimed_ns
    if since is not None and now_ns - since < state.config.reclaim_every_ns:
        return
    waiting = _first_in_need(state)
    if waiting is None:
        return
    need = max(state.config.step_bytes, waiting.expected_bytes or 0)
    for call in _holders(state, waiting):
        amount = min(need, call.reclaimable_bytes)
        call.reclaimable_bytes -= amount
        state.reclaimed_ns = now_ns
        size = format_bytes(amount)
        text = f"{size} of its page cache, or of what it may swap out, go to {waiting.name}"
        because = Because(Code.RECLAIM_FOR_WAITING, text)
        out.append(Reclaim(call.session, call.name, amount, because))
        need -= amount
        if need < RECLAIMABLE_BYTES:
            return


def _first_in_need(state: PolicyState) -> CallState | None:
    """Running calls before queued ones, then priority, then age."""
    return min(
        state.waiting.values(),
        key=lambda c: (c.phase is CallPhase.QUEUED, _rank(state, c), c.begun_ns, c.name),
        default=None,
    )


def _holders(state: PolicyState, waiting: CallState) -> list[CallState]:
    """Whose memory may go for it: lower priorities first, the largest first, its own last."""
    session = state.sessions[waiting.session]
    tight_session = session_free_bytes(state, session) <= host_free_bytes(state)
    found = [
        call
        for call in state.calls.values()
        if call.reclaimable_bytes >= RECLAIMABLE_BYTES
        and call.runs
        and _rank(state, call) >= _rank(state, waiting)
        and state.sessions[call.session].mode is Mode.ENFORCE
        and (not tight_session or call.session == waiting.session)
    ]
    return sorted(
        found, key=lambda c: (c is waiting, -_rank(state, c), -c.reclaimable_bytes, c.name)
    )


def _rank(state: PolicyState, call: CallState) -> int:
    return state.sessions[call.session].priority.rank
