# SPDX-License-Identifier: Apache-2.0
"""step(state, input) -> (state, actions): the whole policy behind one pure function.

No clock, no I/O, no randomness: time comes with the input, so the daemon and the
simulator run the same code. `step` consumes the state it is given and returns it
changed; keep a copy.deepcopy() to go back. Bytes and nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import InvalidValueError
from ..types import inputs as i
from ..types.actions import Action, Because, Code, SetLimits, Terminate
from ..types.outcomes import Reason
from ..types.sessions import Mode
from ..units import NS_PER_S
from . import admission, exhausted, grants, reclaim, repeats
from .limits import cap_bytes, limits_for, tools_budget_bytes
from .state import CallPhase, CallState, PolicyConfig, PolicyState, SessionState

__all__ = ["new_state", "next_deadline_ns", "step"]


def new_state(budget_bytes: int, config: PolicyConfig | None = None) -> PolicyState:
    return PolicyState(config or PolicyConfig(), budget_bytes)


def step(state: PolicyState, what: i.Input) -> tuple[PolicyState, list[Action]]:
    """Raises InvalidValueError for a session or call the state does not know."""
    out: list[Action] = []
    _HANDLERS[type(what)](state, what, out)
    return state, out


def next_deadline_ns(state: PolicyState) -> int | None:
    """When a Tick is due at the latest; None = nothing is pending."""
    if not state.waiting and not state.timed and state.stuck_since_ns is None:
        return None
    config = state.config
    due: list[int] = []
    for call in state.waiting.values():
        if call.phase is CallPhase.QUEUED:
            due.append(call.begun_ns + _wait_ns(state, call))
        elif call.runs and call.blocked_since_ns is not None:
            due.append(call.blocked_since_ns + _wait_ns(state, call))
            if call.phase is CallPhase.RUNNING:
                due.append(call.blocked_since_ns + config.throttle_max_ns)
            over_ns = exhausted.exhausted_at_ns(state, call)
            if over_ns is not None:
                due.append(over_ns)
    for call in state.timed.values():
        if call.phase is CallPhase.TERMINATING and call.kill_at_ns is not None:
            due.append(call.kill_at_ns)
        elif call.runs and call.intent.timeout_s is not None and _is_limited(state, call):
            due.append(call.started_ns + int(call.intent.timeout_s * NS_PER_S))
    if state.stuck_since_ns is not None:
        due.append(state.stuck_since_ns + config.deadlock_after_ns)
    return min(due, default=None)


def _host_budget(state: PolicyState, what: i.HostBudget, out: list[Action]) -> None:
    if what.budget_bytes > state.budget_bytes:
        for session in state.sessions.values():
            repeats.forget_exhausted(session)
    state.budget_bytes = what.budget_bytes
    state.kept.all_changed = True
    _settle(state, what.t_ns, out)


def _session_begin(state: PolicyState, what: i.SessionBegin, out: list[Action]) -> None:
    session = SessionState(
        what.session,
        what.priority,
        what.budget_bytes,
        what.reserve_bytes,
        what.mode,
        what.cpu_cores,
    )
    state.sessions[what.session] = session
    state.overhead_bytes += session.overhead_bytes


def _session_update(state: PolicyState, what: i.SessionUpdate, out: list[Action]) -> None:
    session = _session(state, what.session)
    overhead_before = session.overhead_bytes
    state.set_priority(session, what.priority or session.priority)
    session.mode = what.mode or session.mode
    if what.budget_bytes is not None:
        if what.budget_bytes > (session.budget_bytes or 0):
            repeats.forget_exhausted(session)
        session.budget_bytes = what.budget_bytes
    if what.reserve_bytes is not None:
        session.reserve_bytes = what.reserve_bytes
    state.overhead_bytes += session.overhead_bytes - overhead_before
    state.kept.changed.add(session.name)
    if what.cpu_cores is not None:
        session.cpu_cores = what.cpu_cores
    for call in session.calls.values():
        if call.runs:
            _relimit(state, session, call, out)
    _settle(state, what.t_ns, out)


def _session_end(state: PolicyState, what: i.SessionEnd, out: list[Action]) -> None:
    session = _session(state, what.session)
    because = Because(Code.SESSION_ENDED, "its session ended")
    for call in list(session.calls.values()):
        if call.runs or call.phase is CallPhase.TERMINATING:
            grants.kill_call(state, call, Reason.KILLED_BY_POLICY, because, out)
        state.drop_call(call.name)
    del state.sessions[session.name]
    state.overhead_bytes -= session.overhead_bytes
    _settle(state, what.t_ns, out)


def _call_begin(state: PolicyState, what: i.CallBegin, out: list[Action]) -> None:
    _session(state, what.session)
    admission.begin(state, what, out)


def _call_restored(state: PolicyState, what: i.CallRestored, out: list[Action]) -> None:
    session = _session(state, what.session)
    call = CallState(what.call, what.session, what.intent, begun_ns=what.began_ns)
    call.started_ns = what.began_ns
    call.current_bytes = call.peak_bytes = what.current_bytes
    call.cap_bytes = cap_bytes(what.intent, tools_budget_bytes(session, state.budget_bytes))
    call.grant_bytes = call.cap_bytes if what.grant_bytes is None else what.grant_bytes
    call.limits = limits_for(what.intent, session, call.grant_bytes, call.cap_bytes, state.config)
    call.phase = CallPhase.RUNNING
    if what.frozen:
        call.phase = CallPhase.FROZEN
        call.blocked_since_ns = call.frozen_since_ns = what.t_ns
    # After a takeover by the guardian it may be known already.
    state.drop_call(call.name)
    state.add_call(call)
    # Nothing is decided before the picture is whole: the Tick after the last one settles.


def _call_update(state: PolicyState, what: i.CallUpdate, out: list[Action]) -> None:
    call = _call(state, what.call)
    call.intent = what.intent
    state.note(call)
    if call.runs:
        _relimit(state, state.sessions[call.session], call, out)
    _settle(state, what.t_ns, out)


def _call_end(state: PolicyState, what: i.CallEnd, out: list[Action]) -> None:
    call = state.drop_call(what.call)
    if call is None:
        return
    repeats.note_end(state.sessions[call.session], call, what)
    if what.peak_bytes is not None:
        state.learned.note(call.intent.command, what.peak_bytes, oom_killed=what.oom_killed)
    _settle(state, what.t_ns, out)


def _past_peak(state: PolicyState, what: i.PastPeak, out: list[Action]) -> None:
    state.learned.note(what.command, what.peak_bytes, oom_killed=what.oom_killed)


def _call_withdrawn(state: PolicyState, what: i.CallWithdrawn, out: list[Action]) -> None:
    if state.drop_call(what.call) is None:
        return
    _settle(state, what.t_ns, out)


def _call_sample(state: PolicyState, what: i.CallSample, out: list[Action]) -> None:
    call = state.calls.get(what.call)
    if call is None:
        return
    call.note_usage(what.t_ns, what.current_bytes)
    state.note_held(call)
    if what.reclaimable_bytes is not None:
        call.reclaimable_bytes = what.reclaimable_bytes
    if state.sessions[call.session].mode is Mode.OFF:
        return
    if call.blocked_since_ns is None:
        grants.raise_if_near(state, call, what.t_ns, out)
    elif call.runs and not grants.near_line(call):
        grants.unblock(state, call, out)
    grants.shrink_unused(state, call, what.t_ns, out)
    _settle(state, what.t_ns, out)


def _memory_high(state: PolicyState, what: i.MemoryHigh, out: list[Action]) -> None:
    call = state.calls.get(what.call)
    if call is None or not call.runs or state.sessions[call.session].mode is Mode.OFF:
        return
    current = call.grant_bytes if what.current_bytes is None else what.current_bytes
    call.note_usage(what.t_ns, max(call.current_bytes, current))
    state.note_held(call)
    if call.blocked_since_ns is None:
        grants.raise_if_near(state, call, what.t_ns, out, met_line=True)


def _agent_sample(state: PolicyState, what: i.AgentSample, out: list[Action]) -> None:
    session = state.sessions.get(what.session)
    if session is not None:
        overhead_before = session.overhead_bytes
        session.agent_bytes = what.current_bytes
        state.kept.changed.add(session.name)
        state.overhead_bytes += session.overhead_bytes - overhead_before


def _tick(state: PolicyState, what: i.Tick, out: list[Action]) -> None:
    _end_timeouts(state, what.t_ns, out)
    _settle(state, what.t_ns, out)


def _settle(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    """After every change: serve who waits, running calls first, then end what is overdue."""
    if not state.waiting:
        state.stuck_since_ns = None
        return
    grants.serve_blocked(state, out)
    reclaim.ask_back(state, now_ns, out)
    grants.freeze_overdue(state, now_ns, out)
    grants.end_overdue_waits(state, now_ns, out)
    exhausted.end_exhausted(state, now_ns, out)
    grants.break_deadlock(state, now_ns, out)
    admission.end_overdue_queue(state, now_ns, out)
    admission.serve_queue(state, now_ns, out)


def _end_timeouts(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    for call in list(state.timed.values()):
        if call.phase is CallPhase.TERMINATING:
            if call.kill_at_ns is not None and now_ns >= call.kill_at_ns:
                because = Because(Code.GRACE_OVER, "it did not end after SIGTERM")
                grants.kill_call(state, call, Reason.TIMED_OUT, because, out)
        elif call.runs and call.intent.timeout_s is not None and _is_limited(state, call):
            if now_ns - call.started_ns < call.intent.timeout_s * NS_PER_S:
                continue
            text = f"it ran for its timeout of {call.intent.timeout_s:g} s"
            because = Because(Code.TIMEOUT, text)
            if call.phase is CallPhase.FROZEN:
                grants.kill_call(state, call, Reason.TIMED_OUT, because, out)
                continue
            call.phase = CallPhase.TERMINATING
            call.kill_at_ns = now_ns + state.config.term_grace_ns
            state.note(call)
            out.append(Terminate(call.session, call.name, because))


def _relimit(state: PolicyState, session: SessionState, call: CallState, out: list[Action]) -> None:
    """New limits; the cap never goes below what the call holds, which would be a kill."""
    tools = tools_budget_bytes(session, state.budget_bytes)
    call.cap_bytes = max(cap_bytes(call.intent, tools), call.current_bytes)
    call.grant_bytes = min(call.grant_bytes, call.cap_bytes)
    state.note(call)
    limits = limits_for(call.intent, session, call.grant_bytes, call.cap_bytes, state.config)
    if limits != call.limits and session.mode is not Mode.OFF:
        because = Because(Code.UPDATED, "its intent or its session was updated")
        out.append(SetLimits(call.session, call.name, limits, because))
        call.limits = replace(limits)


def _is_limited(state: PolicyState, call: CallState) -> bool:
    return state.sessions[call.session].mode is not Mode.OFF


def _wait_ns(state: PolicyState, call: CallState) -> int:
    return int((call.intent.max_wait_s or state.config.default_max_wait_s) * NS_PER_S)


def _session(state: PolicyState, name: str) -> SessionState:
    session = state.sessions.get(name)
    if session is None:
        raise InvalidValueError("session", name, "no such session")
    return session


def _call(state: PolicyState, name: str) -> CallState:
    call = state.calls.get(name)
    if call is None:
        raise InvalidValueError("call", name, "no such running tool call")
    return call


_HANDLERS: dict[type[Any], Callable[[PolicyState, Any, list[Action]], None]] = {
    i.HostBudget: _host_budget,
    i.SessionBegin: _session_begin,
    i.SessionUpdate: _session_update,
    i.SessionEnd: _session_end,
    i.CallBegin: _call_begin,
    i.CallRestored: _call_restored,
    i.CallUpdate: _call_update,
    i.CallWithdrawn: _call_withdrawn,
    i.CallEnd: _call_end,
    i.CallSample: _call_sample,
    i.AgentSample: _agent_sample,
    i.MemoryHigh: _memory_high,
    i.PastPeak: _past_peak,
    i.Tick: _tick,
}
