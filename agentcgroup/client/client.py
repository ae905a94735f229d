# SPDX-License-Identifier: Apache-2.0
"""The synchronous SDK: every method of the protocol, and `with client.tool_call(…)`.

Nothing connects before the first request. A Client may be shared between threads; after
a fork the child makes connections of its own. Sizes are bytes or strings such as "2G",
cores are CPUs, times seconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
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
from .toolcall import CompletedCall, ToolCall

__all__ = ["Client"]

DEFAULT_TIMEOUT_S = 30.0
# Each capability is tried out: seconds on a real machine, a minute on an emulated one.
PROBE_TIMEOUT_S = 300.0
MAX_LISTED = 1000
M = TypeVar("M", bound=BaseModel)


class Client:
    """A daemon as its agents and operators see it.

    `socket` names the agent socket (default: AGENTCGROUP_SOCKET, else the system's);
    the admin socket follows from it. With `require`, tool calls fail instead of running
    unmanaged when no daemon answers.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        require: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._channels = Channels(socket, timeout_s)
        self._require = require

    def close(self) -> None:
        """Give back idle connections; a later request makes new ones."""
        self._channels.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Tool calls

    def tool_call(
        self,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        key: str | None = None,
        intent_id: str | None = None,
        **fields: Any,
    ) -> ToolCall:
        """One unit of work with its own limits; use it as a context manager.

        The intent is an Intent, a mapping, keywords (memory="2G", timeout_s=600), or an
        Intent with keywords on top. `key` makes a repeated begin the same call.
        """
        return ToolCall(
            self._channels, _intent(intent, fields),
            session=session, key=key, intent_id=intent_id, require=self._require,
        )  # fmt: skip

    def run(
        self,
        args: Any,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        check: bool = False,
        **options: Any,
    ) -> CompletedCall:
        """subprocess.run as a tool call of its own; `.outcome` says how it ended."""
        with self.tool_call(intent, session=session) as call:
            result = call.run(args, **options)
        if check and result.returncode:
            error = subprocess.CalledProcessError(
                result.returncode, result.args, result.stdout, result.stderr
            )
            if call.outcome and call.outcome.message:
                error.add_note(call.outcome.message)
            raise error
        return result

    def declare_intent(
        self,
        intent: Intent | Mapping[str, Any],
        *,
        match: str | None = None,
        ttl_s: float = 60.0,
        session: str | None = None,
    ) -> str:
        """Announce the next matching call; the id of the declaration."""
        wishes = _wire(_intent(intent, {}))
        result = self._agent(
            "intent.declare", IntentDeclare, intent=wishes, match=match, ttl_s=ttl_s,
            session=session,
        )  # fmt: skip
        return IntentResult.model_validate(result).intent_id

    def calls(
        self, session: str | None = None, *, ended: bool = True, limit: int = 100
    ) -> list[CallInfo]:
        """Tool calls of a session, running and (with `ended`) kept ones, newest first."""
        result = self._agent("tool.list", ToolList, session=session, ended=ended, limit=limit)
        return CallList.model_validate(result).calls

    def live_calls(self, session: str | None = None) -> list[CallInfo]:
        """What runs or waits on the whole host, with figures; for administrators."""
        wishes = _said(session=session, ended=False, figures=True, limit=MAX_LISTED)
        return CallList.model_validate(self._channels.as_admin("tool.list", wishes)).calls

    def call(self, call: str | None = None) -> CallInfo:
        """One tool call with its outcome once it has ended; without a name, one's own."""
        result = self._channels.as_agent("tool.get", {} if call is None else {"call": call})
        return CallResult.model_validate(result).call

    def outcome(self, call: str) -> Outcome | None:
        """How a call ended; None while it runs."""
        return self.call(call).outcome

    def report_step(self, report: StepReport | None = None, /, **fields: Any) -> AdviceResult:
        """Tell the supervisor about one step of the agent's loop."""
        told = parse(StepReport, {**(_wire(report) if report else {}), **fields})
        return AdviceResult.model_validate(self._channels.as_agent("step.report", _wire(told)))

    # Sessions

    def create_session(
        self, name: str | None = None, *, pidfd: int | None = None, **fields: Any
    ) -> SessionInfo:
        """A new session: memory, memory_reserve, cpu, pids_max, priority, kind, mode, labels.

        The process of `pidfd` becomes its agent: placed into it, or (kind="outside") bound.
        """
        spec = parse(SessionSpec, _said(name=name, **fields))
        return self._session(self._channels.as_admin("session.create", _wire(spec), pidfd=pidfd))

    def adopt(self, pid: int, name: str | None = None, **fields: Any) -> SessionInfo:
        """Make a session of a running process and what it starts from now on."""
        spec = parse(SessionAdopt, _said(name=name, **fields))
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OverflowError, ValueError, OSError) as problem:
            raise InvalidValueError("pid", pid, f"name a running process ({problem})") from None
        try:
            result = self._channels.as_admin("session.adopt", _wire(spec), pidfd=pidfd)
        finally:
            os.close(pidfd)
        return self._session(result)

    def detach(self, session: str) -> SessionInfo:
        """Give an adopted session's processes back as they were."""
        return self._session(self._channels.as_admin("session.detach", {"session": session}))

    def sessions(self) -> list[SessionInfo]:
        return SessionList.model_validate(self._channels.as_admin("session.list", {})).sessions

    def session(self, name: str | None = None) -> SessionInfo:
        """A session by name; without one, the caller's own."""
        return self._session(self._channels.as_agent("session.get", _said(session=name)))

    def update_session(self, session: str, **fields: Any) -> SessionInfo:
        """Change priority, memory, memory_reserve, cpu, pids_max or mode."""
        spec = parse(SessionUpdate, _said(session=session, **fields))
        return self._session(self._channels.as_admin("session.update", _wire(spec)))

    def end_session(self, session: str) -> EndResult:
        """End its calls and remove it."""
        result = self._channels.as_admin("session.end", {"session": session})
        return EndResult.model_validate(result)

    def budget(self, session: str | None = None) -> BudgetResult:
        """What the session has and what is free of it."""
        result = self._channels.as_agent("session.budget", _said(session=session))
        return BudgetResult.model_validate(result)

    # Host and events

    def version(self, *, retry: bool = True) -> VersionResult:
        """The daemon's version; with `retry` an absent one is waited for, two seconds."""
        result = self._channels.agent.request("host.version", {}, retry_s=None if retry else 0.0)
        return VersionResult.model_validate(result)

    def status(self) -> dict[str, Any]:
        """The daemon's report on itself (docs/protocol.md, host.status)."""
        return self._channels.as_admin("host.status", {})

    def probe(self) -> dict[str, Any]:
        """What the host can do (docs/protocol.md, host.probe); takes a while."""
        return self._channels.admin.request("host.probe", {}, timeout_s=PROBE_TIMEOUT_S)

    def events(
        self, session: str | None = None, *, kinds: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Trace records as they happen, on a connection of their own, until closed."""
        params = _wire(parse(Subscribe, _said(session=session, kinds=kinds)))
        connection = self._channels.subscribe(params)
        try:
            while True:
                message = connection.next_message()
                if isinstance(message.get("params"), dict):
                    yield message["params"]
        finally:
            connection.close()

    def _agent(self, method: str, model: type[WireModel], **fields: Any) -> dict[str, Any]:
        return self._channels.as_agent(method, _wire(parse(model, _said(**fields))))

    @staticmethod
    def _session(result: dict[str, Any]) -> SessionInfo:
        return SessionResult.model_validate(result).session


def _intent(intent: Intent | Mapping[str, Any] | None, fields: dict[str, Any]) -> Intent:
    if isinstance(intent, Intent) and not fields:
        return intent
    said = _wire(intent) if isinstance(intent, Intent) else intent
    if said is not None and not isinstance(said, Mapping):
        raise InvalidValueError("intent", intent, "give an Intent, a mapping or keywords")
    return parse(Intent, {**(said or {}), **fields}, "intent")


def _said(**fields: Any) -> dict[str, Any]:
    """Only what was said: a missing field is not an empty one."""
    return {name: value for name, value in fields.items() if value is not None}


def _wire(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True, exclude_none=True)
