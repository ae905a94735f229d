# SPDX-License-Identifier: Apache-2.0
"""What both clients ask: for every method of the protocol the conversation that asks it and
reads the answer. Wishes are checked before anything is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from ..errors import InvalidValueError
from ..protocol.messages import (
    AdviceResult,
    BudgetResult,
    CallInfo,
    CallList,
    CallResult,
    EndResult,
    IntentDeclare,
    IntentResult,
    SessionAdopt,
    SessionInfo,
    SessionList,
    SessionResult,
    SessionUpdate,
    Subscribe,
    ToolList,
    VersionResult,
)
from ..types.intents import Intent
from ..types.outcomes import Outcome
from ..types.sessions import SessionSpec
from ..types.steps import StepReport
from ..types.validation import WireModel, parse
from .channels import Channels
from .steps import Conversation
from .wire import Wire

__all__ = ["Questions", "intent_of", "next_try"]

# Each capability is tried out: seconds on a real machine, a minute on an emulated one.
PROBE_TIMEOUT_S = 300.0
MAX_LISTED = 1000
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Questions:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    # One's own work

    def declare_intent(
        self, wish: Intent, *, match: str | None, ttl_s: float, session: str | None
    ) -> Conversation[str]:
        declared = IntentDeclare, {"intent": wire(wish), "match": match, "ttl_s": ttl_s,
                                   "session": session}  # fmt: skip
        return self._own("intent.declare", *declared, lambda a: _read(IntentResult, a).intent_id)

    def calls(
        self, session: str | None, *, ended: bool, limit: int
    ) -> Conversation[list[CallInfo]]:
        wishes = {"session": session, "ended": ended, "limit": limit}
        return self._own("tool.list", ToolList, wishes, lambda a: _read(CallList, a).calls)

    def call(self, call: str | None) -> Conversation[CallInfo]:
        asked = self._channels.as_agent("tool.get", said(call=call))
        return _then(asked, lambda a: _read(CallResult, a).call)

    def report_step(
        self, report: StepReport | None, fields: dict[str, Any]
    ) -> Conversation[AdviceResult]:
        told = parse(StepReport, {**(wire(report) if report else {}), **fields})
        asked = self._channels.as_agent("step.report", wire(told))
        return _then(asked, lambda a: _read(AdviceResult, a))

    def session(self, name: str | None) -> Conversation[SessionInfo]:
        return _then(self._channels.as_agent("session.get", said(session=name)), _session)

    def budget(self, session: str | None) -> Conversation[BudgetResult]:
        asked = self._channels.as_agent("session.budget", said(session=session))
        return _then(asked, lambda a: _read(BudgetResult, a))

    def version(self, *, retry: bool) -> Conversation[VersionResult]:
        asked = self._channels.agent.request("host.version", {}, retry_s=None if retry else 0.0)
        return _then(asked, lambda a: _read(VersionResult, a))

    def events(self, session: str | None, kinds: list[str] | None) -> Conversation[Wire]:
        """Answered with the connection that carries them; the caller closes it."""
        return self._channels.subscribe(wire(parse(Subscribe, said(session=session, kinds=kinds))))

    # Administrators

    def live_calls(self, session: str | None) -> Conversation[list[CallInfo]]:
        wishes = said(session=session, ended=False, figures=True, limit=MAX_LISTED)
        return self._administer("tool.list", wishes, lambda a: _read(CallList, a).calls)

    def create_session(
        self, name: str | None, fields: dict[str, Any], pidfd: int | None
    ) -> Conversation[SessionInfo]:
        spec = parse(SessionSpec, said(name=name, **fields))
        return self._administer("session.create", wire(spec), _session, pidfd)

    def adopt(
        self, pid: int | None, name: str | None, fields: dict[str, Any]
    ) -> Conversation[SessionInfo]:
        spec = parse(SessionAdopt, said(name=name, **fields))
        pidfd = None if pid is None else _pidfd(pid)
        try:
            return (yield from self._administer("session.adopt", wire(spec), _session, pidfd))
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def detach(self, session: str) -> Conversation[SessionInfo]:
        return self._administer("session.detach", {"session": session}, _session)

    def sessions(self) -> Conversation[list[SessionInfo]]:
        return self._administer("session.list", {}, lambda a: _read(SessionList, a).sessions)

    def update_session(self, session: str, fields: dict[str, Any]) -> Conversation[SessionInfo]:
        spec = parse(SessionUpdate, said(session=session, **fields))
        return self._administer("session.update", wire(spec), _session)

    def end_session(self, session: str) -> Conversation[EndResult]:
        asked = {"session": session}
        return self._administer("session.end", asked, lambda a: _read(EndResult, a))

    def status(self) -> Conversation[dict[str, Any]]:
        return self._administer("host.status", {}, dict)

    def probe(self) -> Conversation[dict[str, Any]]:
        return self._channels.admin.request("host.probe", {}, timeout_s=PROBE_TIMEOUT_S)

    def _own(
        self,
        method: str,
        model: type[WireModel],
        fields: dict[str, Any],
        read: Callable[[dict[str, Any]], R],
    ) -> Conversation[R]:
        return _then(self._channels.as_agent(method, wire(parse(model, said(**fields)))), read)

    def _administer(
        self,
        method: str,
        params: dict[str, Any],
        read: Callable[[dict[str, Any]], R],
        pidfd: int | None = None,
    ) -> Conversation[R]:
        return _then(self._channels.admin.request(method, params, pidfd=pidfd), read)


def _then(
    asked: Conversation[dict[str, Any]], read: Callable[[dict[str, Any]], R]
) -> Conversation[R]:
    return read((yield from asked))


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (ProcessLookupError, OverflowError, ValueError, OSError) as problem:
        raise InvalidValueError("pid", pid, f"name a running process ({problem})") from None


def _read(model: type[M], answer: dict[str, Any]) -> M:
    return model.model_validate(answer)


def _session(answer: dict[str, Any]) -> SessionInfo:
    return _read(SessionResult, answer).session


def intent_of(intent: Intent | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Intent:
    """An Intent, a mapping, keywords, or an Intent with keywords on top."""
    if isinstance(intent, Intent) and not fields:
        return intent
    told = wire(intent) if isinstance(intent, Intent) else intent
    if told is not None and not isinstance(told, Mapping):
        raise InvalidValueError("intent", intent, "give an Intent, a mapping or keywords")
    return parse(Intent, {**(told or {}), **fields}, "intent")


def next_try(intent: Intent, outcome: Outcome | None) -> Intent | None:
    """What to declare for a repetition; None where the daemon sees no use in one."""
    if outcome is None or outcome.retry is None or not outcome.retry.worthwhile:
        return None
    return intent_of(intent, {**(outcome.retry.intent or {}), "retry_of": outcome.call})


def said(**fields: Any) -> dict[str, Any]:
    """Only what was said: a missing field is not an empty one."""
    return {name: value for name, value in fields.items() if value is not None}


def wire(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True, exclude_none=True)
