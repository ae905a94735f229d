# SPDX-License-Identifier: Apache-2.0
"""Tool calls: begin, one more process, new wishes, resume after a crash, end.

Begin is mkdir -> limits -> record in the tree -> place -> confirm -> answer; only then
the child execs, so in an enforced session no user code runs outside its leaf. `key`
makes begin idempotent: asking again gives the same call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable

from ..enforce.files import apply_limits
from ..errors import CgroupGoneError
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access, BeginResult, CallInfo, ToolBegin
from ..types import inputs as i
from ..types.intents import Background, Intent
from ..types.outcomes import Outcome, Reason
from ..types.sessions import Mode, SessionKind
from . import layout
from .agent_memory import sample_agent_if_stale
from .call_reports import live_info
from .config import CallDefaults, SessionDefaults
from .core import Core
from .crashpoints import crash_point
from .declared import Declarations
from .ending import Ender
from .identity import Identity
from .outcomes import OutcomeStore
from .records import CALL_XATTR, CallRecord, ProcessRef, SessionRecord
from .target import Target, check_target, confirm_place, place

__all__ = ["Calls", "session_ended"]

_log = get_logger(__name__)
_FIRST_SAMPLE_NS = 50_000_000
_KILLED = 9


class Calls:
    def __init__(
        self,
        core: Core,
        tree_path: str,
        store: OutcomeStore,
        ender: Ender,
        defaults: CallDefaults,
        session_defaults: SessionDefaults,
    ) -> None:
        self._core = core
        self._tree_path = tree_path
        self._store = store
        self._ender = ender
        self._defaults = defaults
        self._session_defaults = session_defaults
        self.declarations = Declarations(core.clock)
        self.layers: Callable[[], list[str]] = lambda: ["files"]
        self._tasks: set[asyncio.Future[Outcome]] = set()
        self.watch_leaf: Callable[[CallRecord], None] = _nothing
        self.unwatch_leaf: Callable[[CallRecord], None] = _nothing
        self.drain: Callable[[], None] = lambda: None

    # --- begin

    async def begin(
        self, session: SessionRecord, params: ToolBegin, identity: Identity, fd: int | None
    ) -> BeginResult:
        """Owns `fd`. Waits while the call is queued; cancelled with its connection."""
        try:
            known = self._known(session, params.key)
        except ProtocolError:
            if fd is not None:
                os.close(fd)
            raise
        if known is not None:
            return await self._again(session, known, identity, fd)
        target = self._target(session, identity, fd, shell=params.shell)
        crash_point("begin.checked")
        try:
            self._check_room(session)
            intent, source = self._intent(session, params)
            record = self._new_record(session, params.key, intent, identity, target)
            await self._admitted(session, record)
            crash_point("begin.admitted")
            self._make(session, record, target)
        finally:
            if target is not None:
                target.close()
        if self._core.decisions.wanted:
            self._core.decisions.record(
                self._core.clock.now_ns(), "call_begin", session.name, record.name,
                {"intent": intent.model_dump(mode="json", exclude_none=True),
                 "limits": record.limits.as_dict(), "waited_ms": round(record.waited_ms, 3)},
            )  # fmt: skip
        if source == "default" and record.learned_bytes is not None:
            source = "learned"
        return self._answer(session, record, source)

    def _known(self, session: SessionRecord, key: str) -> CallRecord | None:
        name = session.keys.get(key)
        if name is not None:
            return session.calls[name]
        if self._store.by_key(session.name, key) is not None:
            raise ProtocolError(
                Kind.ALREADY_EXISTS, "the tool call with this key has ended", field="key",
                value=key, remedy="ask for its outcome with tool.resume, or use a fresh key",
            )  # fmt: skip
        return None

    async def _again(
        self, session: SessionRecord, record: CallRecord, identity: Identity, fd: int | None
    ) -> BeginResult:
        """The same begin once more, after a lost connection or a restart of ours."""
        target = self._target(session, identity, fd, shell=record.child is None, own=record)
        try:
            if target is not None and record.child is not None and target.ref != record.child:
                raise ProtocolError(
                    Kind.ALREADY_EXISTS, "this key belongs to another process", field="key",
                    value=record.key, remedy="use a fresh key for every tool call",
                )  # fmt: skip
            if record.admitted is not None:
                await asyncio.shield(record.admitted)
            if record.leaf is not None and target is not None:
                self._place(record, target)
        finally:
            if target is not None:
                target.close()
        return self._answer(session, record, "declared")

    def _target(
        self,
        session: SessionRecord,
        identity: Identity,
        fd: int | None,
        *,
        shell: bool,
        own: CallRecord | None = None,
    ) -> Target | None:
        """`own`: the call that this process may stand in already."""
        if fd is None:
            if shell:
                return None
            raise ProtocolError(
                Kind.BAD_DESCRIPTOR, "tool.begin needs the pidfd of the waiting child",
                field="pidfd", remedy="send it by SCM_RIGHTS with the first byte of the message",
            )  # fmt: skip
        room = f"{self._tree_path}/{session.name}"
        leaf = () if own is None else (self._leaf_path(own),)
        outside = identity.role is Access.ADMIN or session.kind is SessionKind.OUTSIDE
        try:
            return check_target(
                fd, identity, (room, f"{room}/{layout.AGENT}", *leaf), self._tree_path,
                outside=outside,
            )  # fmt: skip
        except BaseException:
            os.close(fd)
            raise

    def _check_room(self, session: SessionRecord) -> None:
        if session.ending:
            raise session_ended(session)
        queued = sum(1 for call in session.calls.values() if call.leaf is None)
        for count, limit, what in (
            (queued, self._session_defaults.max_queued, "waiting"),
            (len(session.calls), self._session_defaults.max_calls, "running"),
        ):
            if count >= limit:
                raise ProtocolError(
                    Kind.TOO_MANY, f"the session has {count} {what} tool calls", field="session",
                    value=session.name, remedy=f"end some first; at most {limit} may be {what}",
                )  # fmt: skip

    def _intent(self, session: SessionRecord, params: ToolBegin) -> tuple[Intent, str]:
        declared = self.declarations.take(session.name, params.intent_id, params.intent.command)
        if declared is None:
            source = "declared" if params.intent.model_fields_set - {"command"} else "default"
            return params.intent, source
        said = {n: getattr(params.intent, n) for n in params.intent.model_fields_set}
        return declared.model_copy(update=said), "intent.declare"

    def _new_record(
        self,
        session: SessionRecord,
        key: str,
        intent: Intent,
        identity: Identity,
        target: Target | None,
    ) -> CallRecord:
        owner = ProcessRef.of_pidfd(identity.pidfd, identity.pid)
        if owner is None:
            raise ProtocolError(
                Kind.NO_IDENTITY, "the calling process has ended", field="connection",
                value=identity.pid, remedy="keep it alive until the answer",
            )  # fmt: skip
        name = f"c{secrets.token_hex(4)}"
        record = CallRecord(
            name=name,
            session=session.name,
            key=key,
            intent=intent,
            owner=owner,
            child=target.ref if target else None,
            begun_ns=self._core.clock.now_ns(),
            began_epoch_s=time.time(),
            owner_pidfd=os.dup(identity.pidfd),
        )
        session.calls[name] = self._core.calls[name] = record
        session.keys[key] = name
        return record

    async def _admitted(self, session: SessionRecord, record: CallRecord) -> None:
        """Policy's word. A refused or cancelled begin leaves no trace in the state."""
        record.admitted = asyncio.get_running_loop().create_future()
        try:
            now = self._core.clock.now_ns()
            sample_agent_if_stale(self._core, session, now)
            self._core.feed(i.CallBegin(now, session.name, record.name, record.intent))
            if not record.admitted.done():
                await asyncio.shield(record.admitted)
            else:
                record.admitted.result()
        except BaseException as error:
            # Whoever repeated this begin meanwhile waits for the same word.
            record.admitted.cancel()
            self._drop(session, record)
            if isinstance(error, ProtocolError):
                self._store_refusal(session, record, error)
            raise
        record.admitted = None
        record.waited_ms = (self._core.clock.now_ns() - record.begun_ns) / 1e6

    def _make(self, session: SessionRecord, record: CallRecord, target: Target | None) -> None:
        """mkdir, limits, record, place, confirm; undone as a whole when a step fails."""
        try:
            if session.ending:
                raise session_ended(session)
            record.leaf = session.tools.create(record.name)
            crash_point("begin.made")
            if session.mode is Mode.ENFORCE:
                apply_limits(record.leaf, record.limits)
            crash_point("begin.limited")
            record.oom_before = session.oom_counts
            session.needs_care = True
            record.placed_ns = self._core.clock.now_ns()
            record.leaf.set_xattr(CALL_XATTR, record.to_xattr())
            crash_point("begin.recorded")
            if target is not None:
                self._place(record, target)
        except BaseException:
            leaf, record.leaf = record.leaf, None
            if leaf is not None:
                with contextlib.suppress(OSError, CgroupGoneError):
                    leaf.remove()
                leaf.close()
            self._drop(session, record)
            raise
        self._core.by_cgroup[record.leaf.id] = record
        self.watch(record)

    def _place(self, record: CallRecord, target: Target) -> None:
        assert record.leaf is not None
        place(record.leaf, target)
        crash_point("begin.placed")
        confirm_place(record.leaf, self._leaf_path(record), target)
        crash_point("begin.confirmed")

    def watch(self, record: CallRecord) -> None:
        """Sample it and hear its memory events; the first sample looks at its owner, too."""
        record.next_sample_ns = self._core.clock.now_ns() + _FIRST_SAMPLE_NS
        record.sample_interval_ns = _FIRST_SAMPLE_NS
        self.watch_leaf(record)
        self._core.schedule()

    def watch_owner(self, record: CallRecord) -> None:
        """End it with its owner. Not from the start: most calls are over sooner."""
        record.watch_owner(asyncio.get_running_loop(), self._owner_died)

    def _answer(self, session: SessionRecord, record: CallRecord, source: str) -> BeginResult:
        return BeginResult(
            call=record.name,
            session=session.name,
            limits=record.limits.as_dict(),
            waited_ms=round(record.waited_ms, 3),
            layers=self.layers(),
            mode=session.mode.value,
            intent_source=source,
        )

    def _drop(self, session: SessionRecord, record: CallRecord) -> None:
        session.calls.pop(record.name, None)
        session.keys.pop(record.key, None)
        record.close_owner(asyncio.get_running_loop())
        self._core.calls.pop(record.name, None)
        self._core.feed(i.CallWithdrawn(self._core.clock.now_ns(), record.name))

    def _store_refusal(
        self, session: SessionRecord, record: CallRecord, error: ProtocolError
    ) -> None:
        waited_ms = (self._core.clock.now_ns() - record.begun_ns) / 1e6
        outcome = Outcome(
            call=record.name, session=session.name, reason=Reason.REFUSED,
            label=record.intent.label, waited_ms=round(waited_ms, 3),
            message=f"{error}. Remedy: {error.remedy}.", ended_epoch_s=time.time(),
        )  # fmt: skip
        self._store.append(outcome, record.key)

    # --- while it runs

    def place_more(self, record: CallRecord, identity: Identity, fd: int) -> None:
        """One more waiting child of the caller into the same leaf. Owns `fd`."""
        session = self._core.sessions[record.session]
        target = self._target(session, identity, fd, shell=False, own=record)
        assert target is not None
        try:
            if record.leaf is None:
                raise _not_running(record.name)
            self._place(record, target)
        finally:
            target.close()

    def info(self, record: CallRecord, *, figures: bool = False) -> CallInfo:
        return live_info(self._core, record, self.layers(), figures=figures)

    # --- end

    async def end(self, record: CallRecord, exit_code: int | None, signal: int | None) -> Outcome:
        if record.leaf is None and record.ending is None:
            raise _not_running(record.name)
        self.unwatch_leaf(record)
        return await self._ender.end(record, exit_code, signal)

    def release(self, record: CallRecord) -> None:
        """Its session is detached: the command runs on, its leaf goes, nothing is stored."""
        self.unwatch_leaf(record)
        if record.leaf is not None:
            self._core.by_cgroup.pop(record.leaf.id, None)
            record.leaf.freeze(False)
            record.leaf.close()
            record.leaf = None
        self._drop(self._core.sessions[record.session], record)

    def _owner_died(self, record: CallRecord) -> None:
        """Nobody waits for the command any more: it ends now."""
        record.unwatch_owner(asyncio.get_running_loop())
        if record.ending is not None or record.leaf is None:
            return
        _log.info("%s: the process that waited for it ended", record.name)
        self.unwatch_leaf(record)
        self.drain()
        if record.child_exit is not None:
            status = record.child_exit
        else:
            status = None, None if record.intent.background is Background.KEEP else _KILLED
        task = asyncio.ensure_future(self._ender.end(record, *status))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _leaf_path(self, record: CallRecord) -> str:
        return f"{self._tree_path}/{record.session}/{layout.TOOLS}/{record.name}"


def _nothing(record: CallRecord) -> None:
    """No source of memory events is there."""


def session_ended(session: SessionRecord) -> ProtocolError:
    return ProtocolError(
        Kind.REFUSED, "the session ended", field="session", value=session.name,
        remedy="begin it in another session",
    )  # fmt: skip


def _not_running(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.NOT_FOUND, f"tool call '{name}' is not running", field="call", value=name,
        remedy="see: agentcgroup why " + name,
    )  # fmt: skip
