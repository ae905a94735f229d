# SPDX-License-Identifier: Apache-2.0
"""A command that ran out of memory and comes again unchanged would run out again. Pure.

Agents do that: they repeat a failed command before they read why it failed. What is known
is by session and by the whole command line, without what it says to us. It is forgotten when
the command got by, or when sixty-four others ran out since. `retry_of` naming the killed
call says that something has changed, and is believed. Bytes.
"""

from __future__ import annotations

import hashlib
import re

from ..types.actions import Because, Code, Refuse
from ..types.inputs import CallEnd
from ..units import MIB, format_bytes
from .accounting import room_alone_bytes
from .limits import cap_bytes, tools_budget_bytes
from .state import CallState, PastOom, PolicyState, RepeatOom, SessionState

__all__ = ["foresee", "forget_exhausted", "note_end"]

_KEPT = 64
_FILLED_PCT = 90
_MORE_PCT = 150
_VARIES_PCT = 15
_LEAST_MORE_BYTES = 64 * MIB
_SAID_TO_US = re.compile(
    r"#\s*agentcgroup:[^\n]*"
    r"|\b(?:AGENTCGROUP_INTENT|AGENT_RESOURCE_HINT)=(?:'[^']*'|\"[^\"]*\"|\S*)"
)


def note_end(session: SessionState, call: CallState, what: CallEnd) -> None:
    """Remember a command that was killed for memory; forget one that got by."""
    key = _key(call.intent.command)
    if key is None or what.peak_bytes is None:
        return
    session.oomed.pop(key, None)
    if not what.oom_killed:
        return
    filled = what.peak_bytes * 100 >= call.cap_bytes * _FILLED_PCT
    swap_bytes = call.intent.swap_max or 0
    session.oomed[key] = PastOom(
        call.name,
        call.cap_bytes,
        swap_bytes,
        what.peak_bytes,
        filled or call.exhausted,
        call.exhausted,
    )
    if len(session.oomed) > _KEPT:
        del session.oomed[next(iter(session.oomed))]


def foresee(state: PolicyState, session: SessionState, call: CallState) -> Refuse | None:
    """Give the call a better plan, or say no, if it would be killed as it was before."""
    if not session.oomed:
        return None
    past = session.oomed.get(_key(call.intent.command) or b"")
    if past is None or state.config.repeat_oom is RepeatOom.ALLOW:
        return None
    if call.intent.retry_of == past.call:
        return None
    tools = tools_budget_bytes(session, state.budget_bytes)
    if past.filled:
        most = room_alone_bytes(state, session) if past.exhausted else tools
        could = min(call.cap_bytes, most)
        if could > _no_more_bytes(past) or (call.intent.swap_max or 0) > past.swap_bytes:
            return None
        more = min(max(2 * past.cap_bytes, _LEAST_MORE_BYTES), most)
        if state.config.repeat_oom is RepeatOom.REFUSE or more <= _no_more_bytes(past):
            return _refusal(call, past, more)
        _replan(call, past, tools, {"memory": more, "memory_max": more})
        return None
    # Others took what it needed: it is to begin when there is room for what it needs.
    more = min(past.peak_bytes * _MORE_PCT // 100, call.cap_bytes)
    if (call.expected_bytes or 0) < more:
        _replan(call, past, tools, {"memory": more})
    return None


def forget_exhausted(session: SessionState) -> None:
    """Its budget, or the host's, was raised: what was all there is, is no more."""
    session.oomed = {key: past for key, past in session.oomed.items() if not past.exhausted}


def _replan(call: CallState, past: PastOom, tools_bytes: int, wishes: dict[str, int]) -> None:
    call.intent = call.intent.model_copy(update=wishes)
    call.cap_bytes = cap_bytes(call.intent, tools_bytes)
    call.learned_bytes = None
    call.replanned = past.call


def _refusal(call: CallState, past: PastOom, more_bytes: int) -> Refuse:
    cap = format_bytes(past.cap_bytes)
    text = (
        f"the same command was killed for memory at {cap} in this session (call {past.call}),"
        " and this asks for no more"
    )
    changed = f"declare retry_of={past.call} if it needs less than before"
    if more_bytes > _no_more_bytes(past):
        remedy = f"declare memory_max={format_bytes(more_bytes)}, or {changed}"
    else:
        remedy = f"the session has no more: run it on less at a time, and {changed}"
    figures = {"cap_bytes": call.cap_bytes, "killed_at_bytes": past.cap_bytes}
    because = Because(Code.REPEATS_OOM, text, figures)
    return Refuse(call.session, call.name, "refused", remedy, because)


def _no_more_bytes(past: PastOom) -> int:
    """A cap up to here is no more than it had: what a session has left goes up and down."""
    return past.cap_bytes * (100 + _VARIES_PCT) // 100 if past.exhausted else past.cap_bytes


def _key(command: str | None) -> bytes | None:
    """The command without what it says to us; commands are long, so a digest of it."""
    words = _SAID_TO_US.sub(" ", command or "").split()
    return hashlib.sha256(" ".join(words).encode()).digest() if words else None
