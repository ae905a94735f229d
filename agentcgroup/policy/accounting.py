# SPDX-License-Identifier: Apache-2.0
"""Who holds what, and what is free for whom. Bytes.

The sum that must hold, per session and for the host: grants + reserves + measured
overshoot <= budget.

Every session with calls has a fair share of the host by priority. Two rules keep the
host from the state where all wait for each other: a higher-priority session keeps the
unused rest of its share from lower ones, and among equals only one session at a time
grows beyond its share.
"""

from __future__ import annotations

from ..units import MIB
from .limits import tools_budget_bytes
from .state import CallState, PolicyState, SessionState

__all__ = [
    "fair_share_bytes",
    "free_for",
    "host_free_bytes",
    "may_exceed_share",
    "session_free_bytes",
    "slack_bytes",
    "unused_bytes",
]

_LEAST_SLACK_BYTES = 4 * MIB


def host_free_bytes(state: PolicyState) -> int:
    return state.budget_bytes - sum(s.held_bytes for s in state.sessions.values())


def session_free_bytes(state: PolicyState, session: SessionState) -> int:
    held = sum(call.held_bytes for call in session.calls.values())
    return tools_budget_bytes(session, state.budget_bytes) - held


def free_for(state: PolicyState, session: SessionState) -> int:
    """Bytes a call of `session` may be granted now without taking from anybody."""
    host = host_free_bytes(state) - _kept_for_higher_bytes(state, session)
    return min(host, session_free_bytes(state, session))


def fair_share_bytes(state: PolicyState, session: SessionState) -> int:
    weights = state.config.share_weights
    total = sum(weights[s.priority.rank] for s in state.sessions.values() if s.calls)
    if not total:
        return state.budget_bytes
    return state.budget_bytes * weights[session.priority.rank] // total


def may_exceed_share(state: PolicyState, session: SessionState) -> bool:
    """No equal or higher session is beyond its own share just now."""
    return not any(
        other is not session
        and other.priority.rank <= session.priority.rank
        and other.calls
        and other.held_bytes > fair_share_bytes(state, other)
        for other in state.sessions.values()
    )


def slack_bytes(state: PolicyState, call: CallState) -> int:
    """Room above what a call uses that is left to it: half as much again, within bounds."""
    return max(_LEAST_SLACK_BYTES, min(2 * state.config.step_bytes, call.current_bytes // 2))


def unused_bytes(state: PolicyState, call: CallState, *, keep_declared: bool) -> int:
    """What can be taken from a grant without reclaiming a page in use."""
    if not call.runs:
        return 0
    kept = call.current_bytes + slack_bytes(state, call)
    if keep_declared:
        kept = max(kept, call.intent.memory or 0)
    return max(0, call.grant_bytes - kept)


def _kept_for_higher_bytes(state: PolicyState, session: SessionState) -> int:
    kept = 0
    for other in state.sessions.values():
        if other.priority.rank < session.priority.rank and any(
            call.runs for call in other.calls.values()
        ):
            share = min(fair_share_bytes(state, other), _wanted_bytes(state, other))
            kept += max(0, share - other.held_bytes)
    return kept


def _wanted_bytes(state: PolicyState, session: SessionState) -> int:
    """The most the session could use: its calls' declared peaks, else their caps."""
    wanted = session.overhead_bytes
    for call in session.calls.values():
        wanted += max(call.intent.memory or call.cap_bytes, call.held_bytes)
    return wanted
