# SPDX-License-Identifier: Apache-2.0
"""Method -> what the daemon does. One small function each; access was checked before."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from .. import version
from ..enforce import files as enforce
from ..errors import CgroupGoneError, InvalidValueError
from ..protocol import messages as m
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access
from ..types import inputs as i
from ..types.actions import Because, Code
from ..types.outcomes import Outcome, Reason
from ..types.sessions import SessionKind, SessionSpec
from ..types.steps import StepReport
from .access import is_nested, nested_call
from .adoption import Adoption
from .call_reports import ended_info, live_calls, nested_outcome, unknown_call
from .calls import Calls
from .core import Core
from .outcomes import OutcomeStore
from .records import CallRecord, SessionRecord
from .refusals import session_ended
from .server_request import RequestContext
from .session_reports import session_budget, session_info, session_list
from .session_watch import SessionWatch
from .sessions import Sessions
from .status import Status
from .supervision import Supervision
from .translation import for_caller

__all__ = ["Handlers"]

_ONE_CALL = {"for": "one call"}


class Handlers:
    """The server's Handler. Results are the protocol's result models, as JSON."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        calls: Calls,
        store: OutcomeStore,
        watch: SessionWatch,
        status: Status,
        adoption: Adoption,
        supervision: Supervision,
    ) -> None:
        self._adoption = adoption
        self._core = core
        self._sessions = sessions
        self._calls = calls
        self._store = store
        self._watch = watch
        self._status = status
        self._supervision = supervision
        supervision.end_session = self._stop_session
        self._nested = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.on_agent_ended = self._agent_ended
        self._table: dict[str, Callable[[RequestContext, Any], Awaitable[BaseModel]]] = {
            "host.version": self._version,
            "host.status": self._host_status,
            "host.probe": self._probe,
            "session.create": self._session_create,
            "session.adopt": self._session_adopt,
            "session.detach": self._session_detach,
            "session.get": self._session_get,
            "session.list": self._session_list,
            "session.update": self._session_update,
            "session.budget": self._session_budget,
            "session.end": self._session_end,
            "intent.declare": self._intent_declare,
            "tool.begin": self._tool_begin,
            "tool.update": self._tool_update,
            "tool.get": self._tool_get,
            "tool.list": self._tool_list,
            "tool.end": self._tool_end,
            "tool.resume": self._tool_resume,
            "step.report": self._step_report,
            "events.subscribe": self._subscribe,
        }

    async def __call__(self, context: RequestContext) -> str:
        result = await self._table[context.method.name](context, context.params)
        return for_caller(result, context.identity, self._core.sessions).model_dump_json()

    # --- host

    async def _version(self, context: RequestContext, params: m.NoParams) -> BaseModel:
        return m.VersionResult(version=version(), protocol=m.PROTOCOL_VERSION)

    async def _host_status(self, context: RequestContext, params: m.NoParams) -> BaseModel:
        sessions = await session_list(self._core, figures=True)
        return m.AnyResult.model_validate(self._status.report(sessions))

    async def _probe(self, context: RequestContext, params: m.NoParams) -> BaseModel:
        # Trying things out takes seconds; the loop has a guardian to answer meanwhile.
        return m.AnyResult.model_validate(await asyncio.to_thread(self._status.probe))

    # --- sessions

    async def _session_create(self, context: RequestContext, params: SessionSpec) -> BaseModel:
        fd = context.descriptor
        try:
            record = self._sessions.create(params, fd)
        finally:
            if fd is not None:
                os.close(fd)
        self._watch.begin(record)
        return m.SessionResult(session=session_info(self._core, record))

    async def _session_adopt(self, context: RequestContext, params: m.SessionAdopt) -> BaseModel:
        record = await self._adoption.adopt(params, context.descriptor)
        return m.SessionResult(session=session_info(self._core, record))

    async def _session_detach(self, context: RequestContext, params: m.SessionRef) -> BaseModel:
        record = self._sessions.get(params.session)
        info = session_info(self._core, record)
        await self._end_calls(record, kill=False)
        for call in list(record.calls.values()):
            self._calls.release(call)
        self._watch.end(record.name)
        self._calls.declarations.forget(record.name)
        await self._sessions.detach(record)
        self._adoption.given_back(record)
        return m.SessionResult(session=info)

    async def _session_get(self, context: RequestContext, params: m.SessionRefOrOwn) -> BaseModel:
        info = session_info(self._core, self._session(context), figures=True)
        return m.SessionResult(session=info)

    async def _session_list(self, context: RequestContext, params: m.NoParams) -> BaseModel:
        return m.SessionList(sessions=await session_list(self._core))

    async def _session_update(self, context: RequestContext, params: m.SessionUpdate) -> BaseModel:
        record = self._sessions.update(params)
        self._watch.changed(record)
        return m.SessionResult(session=session_info(self._core, record))

    async def _session_budget(
        self, context: RequestContext, params: m.SessionRefOrOwn
    ) -> BaseModel:
        return session_budget(self._core, self._session(context))

    async def _session_end(self, context: RequestContext, params: m.SessionRef) -> BaseModel:
        record = self._sessions.get(params.session)
        outcomes = await self.end_session(record)
        self._adoption.given_back(record)
        return m.EndResult(session=record.name, outcomes=outcomes)

    # --- tool calls

    async def _intent_declare(self, context: RequestContext, params: m.IntentDeclare) -> BaseModel:
        session = self._session(context)
        intent_id = self._calls.declarations.declare(
            session.name, params.intent, params.match, params.ttl_s
        )
        return m.IntentResult(intent_id=intent_id)

    async def _tool_begin(self, context: RequestContext, params: m.ToolBegin) -> BaseModel:
        identity, fd = context.identity, context.descriptor
        if identity.role is Access.LEAF:
            if fd is not None:
                os.close(fd)
            return self._nested_begin(context)
        try:
            session = self._session_or_new(context, params)
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        try:
            return await self._calls.begin(session, params, identity, fd)
        except BaseException:
            await self.end_if_idle(session.name)
            raise

    def _nested_begin(self, context: RequestContext) -> BaseModel:
        """From inside a leaf: it runs in that leaf, no new limits."""
        outer = self._core.calls.get(context.identity.call or "")
        session = context.identity.session or ""
        return m.BeginResult(
            call=nested_call(context.identity.call, next(self._nested)),
            session=session,
            limits=outer.limits.as_dict() if outer else {},
            layers=self._calls.layers(),
            nested=True,
            mode=self._core.sessions[session].mode.value,
            intent_source="nested",
        )

    def _session_or_new(self, context: RequestContext, params: m.ToolBegin) -> SessionRecord:
        """An administrator outside of every session gets one that ends with the call."""
        if context.session is not None:
            return self._session(context)
        for record in self._core.sessions.values():
            if params.key in record.keys:
                return record
        name = f"run-{context.identity.pid}"
        if name in self._core.sessions:
            name = f"{name}-{next(self._nested)}"
        record = self._sessions.create(SessionSpec(name=name, labels=_ONE_CALL))
        self._watch.begin(record)
        return record

    async def _tool_update(self, context: RequestContext, params: m.ToolUpdate) -> BaseModel:
        fd = context.descriptor
        try:
            record = self._call(context, params.call)
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        if fd is not None:
            self._calls.place_more(record, context.identity, fd)
        if params.intent is not None:
            given = {n: getattr(params.intent, n) for n in params.intent.model_fields_set}
            record.intent = record.intent.model_copy(update=given)
            record.save()
            now = self._core.clock.now_ns()
            self._core.feed(i.CallUpdate(now, record.name, record.intent))
        return m.UpdateResult(call=record.name, limits=record.limits.as_dict())

    async def _tool_get(self, context: RequestContext, params: m.ToolRef) -> BaseModel:
        name = params.call or context.identity.call
        if name is None:
            raise InvalidValueError("call", None, "name the tool call")
        record = self._core.calls.get(name)
        if record is not None and record.ending is None:
            return m.CallResult(call=self._calls.info(record, figures=True))
        outcome = self._store.get(name)
        if outcome is not None:
            return m.CallResult(call=ended_info(outcome))
        if record is None:
            raise unknown_call(name)
        return m.CallResult(call=self._calls.info(record))

    async def _tool_list(self, context: RequestContext, params: m.ToolList) -> BaseModel:
        session, layers = context.session, self._calls.layers()
        calls = await live_calls(
            self._core, session, layers, limit=params.limit, figures=params.figures
        )
        if params.ended:
            room, live = max(0, params.limit - len(calls)), {info.call for info in calls}
            newest = self._store.newest(session, room)
            calls += [ended_info(outcome) for outcome in newest if outcome.call not in live]
        return m.CallList(calls=calls)

    async def _tool_end(self, context: RequestContext, params: m.ToolEnd) -> BaseModel:
        if is_nested(params.call):
            return m.OutcomeResult(outcome=nested_outcome(context, params))
        stored = self._store.get(params.call)
        if stored is not None:
            return m.OutcomeResult(outcome=stored)
        record = self._call(context, params.call)
        outcome = await self._calls.end(record, params.exit_code, params.signal)
        await self.end_if_idle(record.session)
        return m.OutcomeResult(outcome=outcome)

    async def _tool_resume(self, context: RequestContext, params: m.ToolResume) -> BaseModel:
        record = self._by_key(context, params.key)
        if record is None:
            outcome = self._stored_by_key(context, params.key)
            if outcome is None:
                raise ProtocolError(
                    Kind.NOT_FOUND, "no tool call was begun with this key", field="key",
                    value=params.key,
                    remedy="begin it with this key; if it ran already, its session"
                    " was ended or detached meanwhile",
                )  # fmt: skip
            return m.CallResult(call=ended_info(outcome))
        if params.exit_code is None and params.signal is None:
            return m.CallResult(call=self._calls.info(record))
        outcome = await self._calls.end(record, params.exit_code, params.signal)
        await self.end_if_idle(record.session)
        return m.CallResult(call=ended_info(outcome))

    # --- steps and events

    async def _step_report(self, context: RequestContext, params: StepReport) -> BaseModel:
        return self._supervision.step(self._session(context), params)

    async def _subscribe(self, context: RequestContext, params: m.Subscribe) -> BaseModel:
        connection, session, kinds = context.connection, context.session, set(params.kinds)

        def deliver(record: dict[str, Any]) -> None:
            if (session is None or record.get("session") == session) and (
                not kinds or record["kind"] in kinds
            ):
                connection.notify("event", record)

        self._core.decisions.subscribe(connection.id, deliver)
        connection.on_close(lambda: self._core.decisions.unsubscribe(connection.id))
        return m.AnyResult.model_validate({"subscribed": True})

    # --- parts

    def _session(self, context: RequestContext) -> SessionRecord:
        if context.session is None:
            raise InvalidValueError("session", None, "name the session")
        return self._sessions.get(context.session)

    def _call(self, context: RequestContext, name: str) -> CallRecord:
        record = self._core.calls.get(name)
        if record is None:
            raise unknown_call(name)
        return record

    def _by_key(self, context: RequestContext, key: str) -> CallRecord | None:
        for session in self._core.sessions.values():
            if context.session is not None and session.name != context.session:
                continue
            name = session.keys.get(key)
            if name is not None:
                return session.calls[name]
        return None

    def _stored_by_key(self, context: RequestContext, key: str) -> Outcome | None:
        return self._store.by_key(context.session, key)

    async def _end_calls(
        self, session: SessionRecord, *, kill: bool, reason: Reason = Reason.KILLED_BY_POLICY
    ) -> list[Outcome]:
        session.ending = True
        records = list(session.calls.values())
        # First those that wait: what ends below would make room for them.
        for record in records:
            if record.leaf is None and record.admitted is not None and not record.admitted.done():
                record.admitted.set_exception(session_ended(session.name))
        outcomes = []
        for record in records:
            if record.leaf is None:
                continue
            if kill and record.killed is None and record.ending is None:
                record.killed = reason
                record.because = Because(Code.SESSION_ENDED, "its session ended")
                record.save()
                with contextlib.suppress(OSError):
                    enforce.kill(record.leaf, record.limits)
            if kill or record.ending is not None:
                outcomes.append(await self._calls.end(record, None, 9 if kill else None))
        return outcomes

    async def _stop_session(self, record: SessionRecord) -> list[Outcome]:
        return await self.end_session(record, Reason.STOPPED_BY_SUPERVISOR)

    async def end_session(
        self, record: SessionRecord, reason: Reason = Reason.KILLED_BY_POLICY
    ) -> list[Outcome]:
        outcomes = await self._end_calls(record, kill=True, reason=reason)
        self._watch.end(record.name)
        self._calls.declarations.forget(record.name)
        # An agent that is to stop must not go on unmanaged.
        stopped = reason is Reason.STOPPED_BY_SUPERVISOR and record.kind is SessionKind.INSIDE
        await self._sessions.end(record, with_place=stopped)
        return outcomes

    async def end_if_idle(self, name: str) -> None:
        """A session made for one call ends with the last thing that runs in it."""
        record = self._core.sessions.get(name)
        if record is None or record.calls or record.spec.labels != _ONE_CALL:
            return
        with contextlib.suppress(CgroupGoneError):
            if record.cgroup.populated():
                return  # survivors in background/: the janitor asks again
        await self.end_session(record)

    def _agent_ended(self, name: str) -> None:
        record = self._core.sessions.get(name)
        if record is None:
            return

        async def end() -> None:
            await self.end_session(record)

        task = asyncio.create_task(end())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
