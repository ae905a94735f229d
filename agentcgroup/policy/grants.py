# SPDX-License-Identifier: Apache-2.0
"""Grants of running calls: raise while memory is free, take back what is unused, and
settle who waits when it is not.

Order of mildness: take unused grants -> bounded throttle at the line -> freeze ->
kill one tool call. A throttle never lasts: memory.high alone can hold a task for
minutes (known livelock), so it becomes a freeze, and every freeze ends.
"""

from __future__ import annotations

from ..types.actions import Action, Because, Code, Freeze, Kill, SetGrant, Thaw
from ..types.intents import OnExceed
from ..types.outcomes import Reason
from ..types.sessions import Mode
from ..units import MIB, NS_PER_S
from .accounting import (
    fair_share_bytes,
    free_for,
    host_free_bytes,
    leads,
    may_exceed_share,
    reach_bytes,
    room_alone_bytes,
    session_free_bytes,
    slack_bytes,
)
from .safety import has_what_it_declared, is_safe_with, missing_bytes
from .state import CallPhase, CallState, PolicyState
from .taking import Taken, give_back, take_unused, tell_taken

_LEAST_CRUMB_BYTES = MIB
_AT_LINE_BYTES = MIB

__all__ = [
    "block",
    "break_deadlock",
    "end_overdue_waits",
    "freeze_overdue",
    "kill_call",
    "near_line",
    "raise_if_near",
    "serve_blocked",
    "shrink_unused",
    "unblock",
]


def step_bytes(state: PolicyState, call: CallState) -> int:
    config = state.config
    coming = call.growth_bytes_per_s * config.growth_horizon_ns // NS_PER_S
    return max(config.step_bytes, call.grant_bytes // 4, coming)


def raise_if_near(
    state: PolicyState, call: CallState, now_ns: int, out: list[Action], *, met_line: bool = False
) -> None:
    """Grant more when half a step (of a small grant: a quarter) or less is left to the line.
    Who gets no more goes on until it meets the line: it may have all it needs."""
    if not call.runs or call.grant_bytes >= call.cap_bytes:
        return
    margin = min(state.config.step_bytes // 2, call.grant_bytes // 4)
    if call.grant_bytes - call.current_bytes > margin:
        return
    if _grant_more(state, call, Code.GROWING, out):
        return
    at_line = call.grant_bytes - call.current_bytes < _AT_LINE_BYTES
    if met_line or (at_line and not has_what_it_declared(call)):
        block(state, call, now_ns, out)


def near_line(call: CallState) -> bool:
    return call.grant_bytes - call.current_bytes < 4 * _AT_LINE_BYTES


def block(state: PolicyState, call: CallState, now_ns: int, out: list[Action]) -> None:
    """The call is at its line and nothing is free for it."""
    if call.blocked_since_ns is not None:
        return
    call.blocked_since_ns = now_ns
    call.full_since_ns = None
    state.note(call)
    if call.intent.on_exceed is OnExceed.WAIT:
        _freeze(state, call, now_ns, Code.NO_MEMORY_FREE, out)


def serve_blocked(state: PolicyState, out: list[Action]) -> None:
    """Hand what became free to those who wait: priority, then who is ahead, then age."""
    for call in blocked_in_order(state):
        if call.grant_bytes >= call.cap_bytes or _grant_more(state, call, Code.GRANTED_AGAIN, out):
            unblock(state, call, out)


def blocked_in_order(state: PolicyState) -> list[CallState]:
    waiting = [c for c in state.waiting.values() if c.runs]
    return sorted(waiting, key=lambda c: (_rank(state, c), -c.held_bytes, c.begun_ns, c.name))


def freeze_overdue(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    """A throttle that lasted too long becomes a freeze."""
    for call in state.waiting.values():
        since = call.blocked_since_ns
        if call.phase is not CallPhase.RUNNING or since is None:
            continue
        if now_ns - since >= state.config.throttle_max_ns:
            _freeze(state, call, now_ns, Code.THROTTLED_TOO_LONG, out)


def end_overdue_waits(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    for call in list(state.waiting.values()):
        since = call.blocked_since_ns
        if not call.runs or since is None:
            continue
        wait_s = call.intent.max_wait_s or state.config.default_max_wait_s
        if now_ns - since >= wait_s * NS_PER_S:
            text = f"no memory became free for it within {wait_s:g} s"
            kill_call(
                state, call, Reason.KILLED_BY_POLICY, Because(Code.WAITED_TOO_LONG, text), out
            )


def break_deadlock(state: PolicyState, now_ns: int, out: list[Action]) -> None:
    """All calls wait and none can finish: kill one, the lowest and least costly."""
    somebody_works = any(c.runs and c.blocked_since_ns is None for c in state.calls.values())
    waiting = [] if somebody_works else blocked_in_order(state)
    if not waiting:
        state.stuck_since_ns = None
        return
    if any(_is_dying(state, c) for c in state.calls.values()):
        state.stuck_since_ns = None
        return
    if _hand_out_crumbs(state, waiting, out):
        state.stuck_since_ns = None
        return
    if state.stuck_since_ns is None:
        state.stuck_since_ns = now_ns
    elif now_ns - state.stuck_since_ns >= state.config.deadlock_after_ns:
        state.stuck_since_ns = None
        victim = max(waiting, key=lambda c: (_rank(state, c), -_age_s(c, now_ns), c.held_bytes))
        because = Because(
            Code.DEADLOCK,
            f"all {len(waiting)} running tool calls waited for memory that only one of them"
            " could free; this one had the lowest priority and the least work to lose",
            {"waiting": len(waiting), "freed_bytes": victim.held_bytes},
        )
        kill_call(state, victim, Reason.KILLED_BY_POLICY, because, out)


def _hand_out_crumbs(state: PolicyState, waiting: list[CallState], out: list[Action]) -> bool:
    """Nobody moves: who can finish with what is left gets it, else the first in order, be it
    little; and what the others do not use of their grants; before anybody has to die for it."""
    spare = sum(max(0, c.grant_bytes - c.current_bytes) for c in waiting)
    free = host_free_bytes(state) + spare
    known = (c for c in waiting if 0 < missing_bytes(state, c) <= free)
    taker = next(known, waiting[0])
    session = state.sessions[taker.session]
    # Less than a crumb will do for who can finish with it.
    least = min(_LEAST_CRUMB_BYTES, missing_bytes(state, taker) or _LEAST_CRUMB_BYTES)
    if min(free, session_free_bytes(state, session) + spare) < least:
        return False
    for call in waiting:
        if call is not taker and call.grant_bytes > call.current_bytes:
            because = Because(Code.YIELD_TO_HIGHER, f"all waited, and {taker.name} comes first")
            _set_grant(state, call, call.current_bytes, because, out)
    free = min(host_free_bytes(state), session_free_bytes(state, session))
    grant = min(taker.cap_bytes, taker.held_bytes + free)
    if grant < taker.held_bytes + least:
        return False
    because = Because(Code.GRANTED_AGAIN, "it was all that was left", {"grant_bytes": grant})
    _set_grant(state, taker, grant, because, out)
    unblock(state, taker, out)
    return True


def shrink_unused(state: PolicyState, call: CallState, now_ns: int, out: list[Action]) -> None:
    """Take back a grant that has been unused for a while, down to what was declared. Who is
    to finish first keeps what it may come to need: it would only come back for it."""
    if not call.runs:
        call.unused_since_ns = None
        return
    first = call.intent.memory or state.config.default_grant_bytes
    target = min(call.cap_bytes, max(first, call.current_bytes + slack_bytes(state, call)))
    # Less than a quarter of a step is not worth a write that may reclaim.
    least = state.config.step_bytes // 4
    if call.grant_bytes > target + least and leads(state, call):
        target = max(target, min(call.grant_bytes, reach_bytes(state, call)))
    if call.grant_bytes <= target + least:
        call.unused_since_ns = None
    elif call.unused_since_ns is None:
        call.unused_since_ns = now_ns
    elif now_ns - call.unused_since_ns >= state.config.shrink_after_ns:
        call.unused_since_ns = None
        _set_grant(state, call, target, Because(Code.UNUSED, "part of the grant was unused"), out)


def kill_call(
    state: PolicyState, call: CallState, reason: Reason, because: Because, out: list[Action]
) -> None:
    """Thaw first: a frozen leaf dies slower."""
    if call.phase is CallPhase.FROZEN:
        out.append(Thaw(call.session, call.name, because))
    call.phase = CallPhase.KILLED
    call.blocked_since_ns = None
    call.frozen_since_ns = None
    state.note(call)
    out.append(Kill(call.session, call.name, reason.value, because))


def _grant_more(state: PolicyState, call: CallState, code: Code, out: list[Action]) -> bool:
    session = state.sessions[call.session]
    if session.mode is Mode.OFF:
        return True
    most = min(call.cap_bytes, room_alone_bytes(state, session))
    want = min(most, call.held_bytes + step_bytes(state, call))
    if want <= call.held_bytes:
        if call.held_bytes < call.cap_bytes:
            return False
        # A burst took it to its cap: its line is no use any more, and costs nobody anything.
        _set_grant(state, call, call.cap_bytes, Because(code, "it holds all it may"), out)
        return True
    least = min(call.held_bytes + state.config.step_bytes // 2, want)
    extra = want - call.held_bytes
    free, taken = _free_within_rules(state, call, extra), Taken()
    if free < extra:
        taken = take_unused(state, call, extra - free)
        free = _free_within_rules(state, call, extra)
    most = min(want, call.held_bytes + max(0, free))
    fits = (grant for grant in (most, least) if least <= grant <= most)
    if not any(_holds_safely(state, call, grant, took=bool(taken)) for grant in fits):
        give_back(state, taken)
        return False
    tell_taken(call, taken, out)
    figures = {"grant_bytes": call.grant_bytes, "current_bytes": call.current_bytes}
    _set_grant(state, call, call.grant_bytes, Because(code, "memory was free", figures), out)
    return True


def _holds_safely(state: PolicyState, call: CallState, grant_bytes: int, *, took: bool) -> bool:
    before_bytes = call.grant_bytes
    call.grant_bytes = grant_bytes
    state.note_held(call)
    if is_safe_with(state, call, took=took):
        return True
    call.grant_bytes = before_bytes
    state.note_held(call)
    return False


def _free_within_rules(state: PolicyState, call: CallState, extra: int) -> int:
    session = state.sessions[call.session]
    settled_bytes = call.mean_bytes * (100 + state.config.settled_room_pct) // 100
    if call.held_bytes < settled_bytes:
        return free_for(state, session, settled=True, enough_bytes=extra)
    free = free_for(state, session, enough_bytes=extra)
    share_left = fair_share_bytes(state, session) - session.held_bytes
    if extra > share_left and not may_exceed_share(state, session):
        free = min(free, share_left)
    return free


def _set_grant(
    state: PolicyState, call: CallState, grant: int, because: Because, out: list[Action]
) -> None:
    call.grant_bytes = grant
    state.note_held(call)
    out.append(SetGrant(call.session, call.name, grant, because))


def _freeze(
    state: PolicyState, call: CallState, now_ns: int, code: Code, out: list[Action]
) -> None:
    call.phase = CallPhase.FROZEN
    call.frozen_since_ns = now_ns
    figures = {
        "grant_bytes": call.grant_bytes,
        "current_bytes": call.current_bytes,
        "host_free_bytes": host_free_bytes(state),
    }
    because = Because(code, "it waits for memory that others hold", figures)
    out.append(Freeze(call.session, call.name, because))


def unblock(state: PolicyState, call: CallState, out: list[Action]) -> None:
    call.blocked_since_ns = None
    call.frozen_since_ns = None
    state.note(call)
    if call.phase is CallPhase.FROZEN:
        call.phase = CallPhase.RUNNING
        because = Because(
            Code.GRANTED_AGAIN, "memory became free", {"grant_bytes": call.grant_bytes}
        )
        out.append(Thaw(call.session, call.name, because))


def _is_dying(state: PolicyState, call: CallState) -> bool:
    """Its memory comes back soon. Who is only observed is killed in the log alone."""
    enforced = state.sessions[call.session].mode is Mode.ENFORCE
    return enforced and call.phase in (CallPhase.KILLED, CallPhase.TERMINATING)


def _rank(state: PolicyState, call: CallState) -> int:
    return state.sessions[call.session].priority.rank


def _age_s(call: CallState, now_ns: int) -> float:
    return (now_ns - call.started_ns) / NS_PER_S
