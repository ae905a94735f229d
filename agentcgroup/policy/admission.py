# SPDX-License-Identifier: Apache-2.0
"""Who may begin: refuse what can never run, queue what can't run now, by priority then age."""

from __future__ import annotations

from ..types.actions import Action, Because, Code, Place, Refuse, Wait
from ..types.inputs import CallBegin
from ..types.sessions import Mode
from ..units import NS_PER_S, format_bytes
from .accounting import fair_share_bytes, free_for, leader, reach_bytes, session_free_bytes
from .limits import cap_bytes, first_grant_bytes, limits_for, tools_budget_bytes
from .repeats import foresee
from .safety import is_safe_with
from .state import CallPhase, CallState, PolicyState, SessionState
from .taking import Taken, give_back, take_unused, tell_taken

__all__ = ["begin", "end_overdue_queue", "queue_in_order", "serve_queue"]


def begin(state: PolicyState, what: CallBegin, out: list[Action]) -> None:
    session = state.sessions[what.session]
    call = CallState(what.call, what.session, what.intent, begun_ns=what.t_ns)
    tools = tools_budget_bytes(session, state.budget_bytes)
    call.cap_bytes = cap_bytes(what.intent, tools)
    if what.intent.memory is None:
        call.learned_bytes = state.learned.expected_bytes(what.intent.command)
    if session.mode is Mode.ENFORCE:
        refusal = foresee(state, session, call)
        if refusal is not None:
            out.append(refusal)
            return
    needs = max(call.intent.memory or 0, state.config.min_grant_bytes)
    if session.mode is Mode.ENFORCE and needs > tools:
        out.append(_over_budget(call, needs, tools))
        return
    state.add_call(call)
    ahead = sum(_blocks(state, c, call) for c in _queued(state) if c is not call)
    if ahead:
        text = f"{ahead} tool calls were waiting before it"
        out.append(Wait(call.session, call.name, Because(Code.BEHIND_OTHERS, text)))
    elif not _admit(state, call, what.t_ns, out):
        free = max(0, free_for(state, session))
        text = f"{format_bytes(free)} were free and it expects {format_bytes(needs)}"
        figures = {"free_bytes": free, "needs_bytes": needs}
        out.append(Wait(call.session, call.name, Because(Code.NO_MEMORY_FREE, text, figures)))


def serve_queue(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    """Admit from the front; who can't be admitted holds back only those it competes with."""
    held_back: list[CallState] = []
    for call in queue_in_order(state):
        if any(_blocks(state, first, call) for first in held_back):
            continue
        session = state.sessions[call.session]
        call.cap_bytes = cap_bytes(call.intent, tools_budget_bytes(session, state.budget_bytes))
        if not _admit(state, call, now_ns, out):
            held_back.append(call)


def end_overdue_queue(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    for call in queue_in_order(state):
        wait_s = call.intent.max_wait_s or state.config.default_max_wait_s
        if now_ns - call.begun_ns >= wait_s * NS_PER_S:
            state.drop_call(call.name)
            because = Because(
                Code.WAITED_TOO_LONG,
                f"no memory became free within {wait_s:g} s",
                {"waited_ms": (now_ns - call.begun_ns) // 1_000_000},
            )
            remedy = "declare less memory, or a longer max_wait_s, or end other tool calls first"
            out.append(Refuse(call.session, call.name, "wait_timeout", remedy, because))


def queue_in_order(state: PolicyState) -> list[CallState]:
    return sorted(
        _queued(state),
        key=lambda c: (state.sessions[c.session].priority.rank, c.begun_ns, c.name),
    )


def _queued(state: PolicyState) -> list[CallState]:
    return [call for call in state.waiting.values() if call.phase is CallPhase.QUEUED]


def _admit(state: PolicyState, call: CallState, now_ns: int, out: list[Action]) -> bool:
    session = state.sessions[call.session]
    want = first_grant_bytes(call, state.config)
    if session.mode is Mode.ENFORCE:
        if call.intent.memory is None and _may_lead(state, session):
            share_left = fair_share_bytes(state, session) - session.held_bytes
            want = max(want, min(share_left, reach_bytes(state, call)))
        declared = (call.intent.memory or 0) * state.config.partial_start_pct // 100
        least = min(want, max(state.config.min_grant_bytes, declared))
        free, taken = free_for(state, session, enough_bytes=want), Taken()
        if free < want:
            taken = take_unused(state, call, want - free)
            free = free_for(state, session)
        fits = (g for g in (min(want, free), least) if least <= g <= free)
        if not any(_runs_safely(state, call, grant, now_ns, took=bool(taken)) for grant in fits):
            give_back(state, taken)
            return False
        tell_taken(call, taken, out)
    else:
        _run(state, call, want, now_ns)
    grant = call.grant_bytes
    call.limits = limits_for(call.intent, session, grant, call.cap_bytes, state.config)
    figures = {"grant_bytes": grant, "cap_bytes": call.cap_bytes}
    if call.learned_bytes is not None:
        figures["learned_bytes"] = call.learned_bytes
    out.append(Place(call.session, call.name, call.limits, _admitted(call, figures)))
    return True


def _may_lead(state: PolicyState, session: SessionState) -> bool:
    """Nobody else is to finish first."""
    first = leader(state)
    return first is None or first is session


def _admitted(call: CallState, figures: dict[str, int]) -> Because:
    if call.replanned is None:
        return Because(Code.ADMITTED, "memory was free for it", figures)
    text = (
        f"the same command was killed for memory before (call {call.replanned}): it gets"
        f" {format_bytes(call.intent.memory or 0)} this time"
    )
    return Because(Code.REPLANNED, text, figures)


def _run(state: PolicyState, call: CallState, grant_bytes: int, now_ns: int) -> None:
    call.phase = CallPhase.RUNNING
    call.started_ns = now_ns
    call.grant_bytes = grant_bytes
    state.note(call)


def _runs_safely(
    state: PolicyState, call: CallState, grant_bytes: int, now_ns: int, *, took: bool
) -> bool:
    _run(state, call, grant_bytes, now_ns)
    if is_safe_with(state, call, took=took):
        return True
    call.phase = CallPhase.QUEUED
    call.grant_bytes = 0
    state.note(call)
    return False


def _blocks(state: PolicyState, first: CallState, later: CallState) -> bool:
    """Queued calls compete when one budget holds both; a higher priority is never held back."""
    first_rank = state.sessions[first.session].priority.rank
    if first_rank > state.sessions[later.session].priority.rank:
        return False
    if first.session == later.session:
        return True
    return not _session_bound(state, first)


def _session_bound(state: PolicyState, call: CallState) -> bool:
    """The call waits for its own session's budget only, so other sessions may pass."""
    session: SessionState = state.sessions[call.session]
    return first_grant_bytes(call, state.config) > session_free_bytes(state, session)


def _over_budget(call: CallState, needs: int, tools: int) -> Refuse:
    text = (
        f"it expects {format_bytes(needs)}, and the session's tool calls together"
        f" may have {format_bytes(tools)}"
    )
    remedy = f"declare at most {format_bytes(tools)}, split the work, or ask for a larger budget"
    figures = {"needs_bytes": needs, "tools_bytes": tools}
    return Refuse(
        call.session, call.name, "over_budget", remedy, Because(Code.OVER_BUDGET, text, figures)
    )
