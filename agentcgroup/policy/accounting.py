# SPDX-License-Identifier: Apache-2.0
"""Who holds what, and what is free for whom. Bytes.

The sum that must hold, per session and for the host: grants + reserves + measured
overshoot <= budget.

Every session with calls has a fair share of the host by priority. Three rules keep the
host from the state where all wait for each other: a higher-priority session keeps the
unused rest of its share from lower ones; among equals the eldest keeps room to grow from
the younger ones; and only one of them at a time grows beyond its share. What they keep are
sums that follow each change (`kept`).
"""

from __future__ import annotations

from ..types.intents import Priority
from ..units import MIB
from .kept import Kept, Part
from .limits import tools_budget_bytes
from .state import CallState, PolicyState, SessionState

__all__ = [
    "barely_unused_bytes",
    "fair_share_bytes",
    "free_for",
    "host_free_bytes",
    "leader",
    "leads",
    "may_exceed_share",
    "reach_bytes",
    "room_alone_bytes",
    "session_free_bytes",
    "slack_bytes",
    "unused_bytes",
]

_LEAST_SLACK_BYTES = 4 * MIB
_RANKS = tuple(priority.rank for priority in Priority)


def host_free_bytes(state: PolicyState) -> int:
    return state.budget_bytes - state.overhead_bytes - state.calls_held_bytes


def session_free_bytes(state: PolicyState, session: SessionState) -> int:
    return tools_budget_bytes(session, state.budget_bytes) - session.calls_held_bytes


def room_alone_bytes(state: PolicyState, session: SessionState) -> int:
    """What one call of `session` could hold at most if no other call ran on the host."""
    tools_bytes = tools_budget_bytes(session, state.budget_bytes)
    return min(tools_bytes, max(0, state.budget_bytes - state.overhead_bytes))


def free_for(
    state: PolicyState, session: SessionState, *, settled: bool = False, enough_bytes: int = -1
) -> int:
    """Bytes a call of `session` may be granted now without taking from anybody.

    `settled`: it asks for little more than it mostly holds, so it will not need ever more.
    `enough_bytes`: more need not be found; on a roomy host it is not looked for.
    """
    host_bytes, own_bytes = host_free_bytes(state), session_free_bytes(state, session)
    if 0 <= enough_bytes <= min(own_bytes, host_bytes - _kept_at_most_bytes(state, session)):
        return enough_bytes
    return min(host_bytes - _kept_bytes(state, session, settled), own_bytes)


def fair_share_bytes(state: PolicyState, session: SessionState) -> int:
    total = sum(_active_weights(state))
    if not total:
        return state.budget_bytes
    return state.budget_bytes * state.config.share_weights[session.priority.rank] // total


def _active_weights(state: PolicyState) -> tuple[int, int, int]:
    """Of all active sessions of each priority together."""
    high, normal, low = state.config.share_weights
    highs, normals, lows = state.active_of_rank
    return high * highs, normal * normals, low * lows


def may_exceed_share(state: PolicyState, session: SessionState) -> bool:
    """No other equal or higher session is beyond its own share just now."""
    kept = _kept_up_to_date(state)
    beyond = sum(kept.beyond_share[: session.priority.rank + 1])
    own = kept.parts.get(session.name)
    return beyond == (own is not None and own.is_beyond_share)


def slack_bytes(state: PolicyState, call: CallState) -> int:
    """Room above what a call uses that is left to it: half as much again, within bounds."""
    return max(_LEAST_SLACK_BYTES, min(2 * state.config.step_bytes, call.current_bytes // 2))


def unused_bytes(state: PolicyState, call: CallState, *, keep_declared: bool) -> int:
    """What can be taken from a grant without holding the call up at once."""
    if not call.runs:
        return 0
    kept = call.current_bytes + slack_bytes(state, call)
    if keep_declared:
        kept = max(kept, call.intent.memory or 0)
    return max(0, call.grant_bytes - kept)


def barely_unused_bytes(call: CallState) -> int:
    """All that can be taken without reclaiming a page in use; the next page is over the line."""
    return max(0, call.grant_bytes - call.current_bytes - _LEAST_SLACK_BYTES) if call.runs else 0


def leader(state: PolicyState, rank: int | None = None) -> SessionState | None:
    """Who is to finish first (of priority `rank`): the highest, then whose running call is
    the oldest."""
    ranks = _RANKS if rank is None else (rank,)
    for each in ranks:
        eldest = state.kept.eldest(each)
        if eldest is not None:
            return state.sessions[eldest.session]
    return None


def leads(state: PolicyState, call: CallState) -> bool:
    """Its session is to finish first."""
    return leader(state) is state.sessions[call.session]


def _kept_bytes(state: PolicyState, session: SessionState, settled: bool) -> int:
    """Not for `session`, although free: what higher sessions have not used of their shares,
    and room to grow for the eldest of its own priority.

    Without that room equals that grow at the same time all stop half way, and only a kill
    gets them going again.
    """
    rank, kept = session.priority.rank, 0
    if any(state.active_of_rank[:rank]):
        sums = _kept_up_to_date(state)
        kept = sum((sums.settled_bytes if settled else sums.growing_bytes)[:rank])
    eldest = leader(state, rank)
    if eldest is not None and eldest is not session:
        reach = eldest.held_bytes * (100 + state.config.elder_room_pct) // 100
        kept += _kept_for(state, eldest, reach, settled=settled)
    return kept


def _kept_at_most_bytes(state: PolicyState, session: SessionState) -> int:
    """More than _kept_bytes ever is, without a look at any session but the eldest."""
    rank, weights = session.priority.rank, _active_weights(state)
    eldest = leader(state, rank)
    room = 0 if eldest is None else eldest.held_bytes * state.config.elder_room_pct // 100
    return state.budget_bytes * sum(weights[:rank]) // max(1, sum(weights)) + room + 1


def _kept_for(state: PolicyState, session: SessionState, reach: int, *, settled: bool) -> int:
    return max(0, min(reach, _wanted_bytes(state, session, settled)) - session.held_bytes)


def _kept_up_to_date(state: PolicyState) -> Kept:
    kept = state.kept
    if kept.all_changed:
        kept.all_changed = False
        kept.forget()
        kept.changed.update(state.active)
    for name in kept.changed:
        session = state.active.get(name)
        kept.put(name, None if session is None else _part(state, session))
    kept.changed.clear()
    return kept


def _part(state: PolicyState, session: SessionState) -> Part:
    share = fair_share_bytes(state, session)
    growing = settled = 0
    if any(call.runs for call in session.calls.values()):
        growing = _kept_for(state, session, share, settled=False)
        settled = _kept_for(state, session, share, settled=True)
    return Part(session.priority.rank, growing, settled, session.held_bytes > share)


def _wanted_bytes(state: PolicyState, session: SessionState, settled: bool) -> int:
    """The most the session could use, in the eyes of somebody settled or growing."""
    return session.overhead_bytes + sum(
        max(call.cap_bytes if _unknown(call) and not settled else reach_bytes(state, call),
            call.current_bytes)
        for call in session.calls.values()
    )  # fmt: skip


def reach_bytes(state: PolicyState, call: CallState) -> int:
    """What the call may come to need: somewhat more than expected, for people guess; of one
    that is unknown, or beyond what was expected, what many need, or more than its peak."""
    config = state.config
    expected = call.expected_bytes
    if expected is None or _unknown(call):
        reach = max(config.reach_bytes, call.peak_bytes * config.reach_pct // 100)
    else:
        reach = expected * config.claim_pct // 100
    return min(call.cap_bytes, reach)


def _unknown(call: CallState) -> bool:
    expected = call.expected_bytes
    return expected is None or call.peak_bytes > expected
