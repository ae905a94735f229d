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
from ..types.outcomes import Outcome
from ..types.sessions import Mode, SessionKind
from . import layout
from .agent_memory import sample_agent_if_stale
from .call_reports import live_info, refused_outcome
from .config import CallDefaults, SessionDefaults
from .core import Core
from .crashpoints import crash_point
from .declared import Declarations, with_defaults
from .ending import Ender
from .identity import Identity
from .outcomes import OutcomeStore
from .places import Places
from .records import CALL_XATTR, CallRecord, ProcessRef, SessionRecord
from .refusals import call_not_running, session_ended
from .target import Target, confirm_place, exit_of, owner_of, place, received_target

__all__ = ["Calls"]

_log = get_logger(__name__)
_FIRST_SAMPLE_NS = 50_000_000
_KILLED = 9
_LOOKS_FOR_EXIT = 20
_LOOK_AGAIN_S = 0.01


class Calls:
    def __init__(
        self,
        core: Core,
        places: Places,
        store: OutcomeStore,
        ender: Ender,
        defaults: CallDefaults,
        session_defaults: SessionDefaults,
    ) -> None:
        self._core = core
        self._places = places
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
        self.check_shell: Callable[[SessionRecord, ProcessRef], None] = _no_shells
        self.shell_begins: Callable[[CallRecord], None] = _nothing
        self.shell_ended: Callable[[CallRecord], None] = _nothing

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
            intent, source = self._intent(session, params.intent, params.intent_id)
            owner = owner_of(identity)
            child = None if params.shell or target is None else target.ref
            if params.shell:
                self.check_shell(session, target.ref if target is not None else owner)
            record = self._new_record(session, params.key, intent, owner, identity.pidfd, child)
            if params.shell:
                record.shell = target.ref if target is not None else owner
            await self._admitted(session, record)
            crash_point("begin.admitted")
            self._make(session, record, None if params.shell else target)
            self.shell_begins(record)
        finally:
            if target is not None:
                target.close()
        self._core.decisions.call_begun(self._core.clock.now_ns(), record)
        if source == "default" and record.learned_bytes is not None:
            source = "learned"
        if record.replanned:
            source = "replanned"
        return self._answer(session, record, source)

    async def begin_seen(self, session: SessionRecord, target: Target, command: str) -> CallRecord:
        """A call that nobody declared: the process is its own owner, and ends it by its end.
        Raises as `begin` does; `target` stays the caller's."""
        self._check_room(session)
        intent, _ = self._intent(session, Intent(command=command), None)
        if intent.background is None:
            intent = intent.model_copy(update={"background": Background.KEEP})
        key = f"exec-{target.ref.pid}-{target.ref.birth}"
        record = self._new_record(session, key, intent, target.ref, target.fd, target.ref)
        await self._admitted(session, record)
        self._make(session, record, target)
        self._core.decisions.call_begun(self._core.clock.now_ns(), record)
        self.watch_owner(record)
        return record

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
        target = self._target(session, identity, fd, shell=record.shell is not None, own=record)
        try:
            if target is not None and target.ref != (record.child or record.shell):
                raise ProtocolError(
                    Kind.ALREADY_EXISTS, "this key belongs to another process", field="key",
                    value=record.key, remedy="use a fresh key for every tool call",
                )  # fmt: skip
            if record.admitted is not None:
                await asyncio.shield(record.admitted)
            if record.leaf is not None and target is not None and record.shell is None:
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
        if fd is None and shell:
            return None
        room = self._places.room(session)
        leaf = () if own is None else (self._places.leaf(own),)
        outside = identity.role is Access.ADMIN or session.kind is SessionKind.OUTSIDE
        return received_target(
            fd, identity, (room, f"{room}/{layout.AGENT}", *leaf), self._places.taken,
            outside=outside,
        )  # fmt: skip

    def _check_room(self, session: SessionRecord) -> None:
        if session.ending:
            raise session_ended(session.name)
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

    def _intent(
        self, session: SessionRecord, intent: Intent, intent_id: str | None
    ) -> tuple[Intent, str]:
        source = "intent.declare"
        declared = self.declarations.take(session.name, intent_id, intent.command)
        if declared is not None:
            said = {n: getattr(intent, n) for n in intent.model_fields_set}
            intent = declared.model_copy(update=said)
        else:
            source = "declared" if intent.model_fields_set - {"command"} else "default"
        learned = self._core.state.learned.expected_bytes(intent.command) is not None
        return with_defaults(intent, session.spec.call_defaults, learned=learned), source

    def _new_record(
        self,
        session: SessionRecord,
        key: str,
        intent: Intent,
        owner: ProcessRef,
        owner_fd: int,
        child: ProcessRef | None,
    ) -> CallRecord:
        name = f"c{secrets.token_hex(4)}"
        record = CallRecord(
            name=name,
            session=session.name,
            key=key,
            intent=intent,
            owner=owner,
            child=child,
            begun_ns=self._core.clock.now_ns(),
            began_epoch_s=time.time(),
            owner_pidfd=os.dup(owner_fd),
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
                now_ns = self._core.clock.now_ns()
                self._store.append(refused_outcome(record, error, now_ns), record.key)
            raise
        record.admitted = None
        record.waited_ms = (self._core.clock.now_ns() - record.begun_ns) / 1e6

    def _make(self, session: SessionRecord, record: CallRecord, target: Target | None) -> None:
        """mkdir, limits, record, place, confirm; undone as a whole when a step fails."""
        try:
            if session.ending:
                raise session_ended(session.name)
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
        confirm_place(record.leaf, self._places.leaf(record), target)
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

    # --- while it runs

    def place_more(self, record: CallRecord, identity: Identity, fd: int) -> None:
        """One more waiting child of the caller into the same leaf. Owns `fd`."""
        session = self._core.sessions[record.session]
        target = self._target(session, identity, fd, shell=False, own=record)
        assert target is not None
        try:
            if record.leaf is None:
                raise call_not_running(record.name)
            self._place(record, target)
        finally:
            target.close()

    def info(self, record: CallRecord, *, figures: bool = False) -> CallInfo:
        return live_info(self._core, record, self.layers(), figures=figures)

    # --- end

    async def end(self, record: CallRecord, exit_code: int | None, signal: int | None) -> Outcome:
        if record.leaf is None and record.ending is None:
            raise call_not_running(record.name)
        self.unwatch_leaf(record)
        self.shell_ended(record)
        return await self._ender.end(record, exit_code, signal)

    def release(self, record: CallRecord) -> None:
        """Its session is detached: the command runs on, its leaf goes, nothing is stored."""
        self.unwatch_leaf(record)
        self.shell_ended(record)
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
        if not record.was_seen:
            _log.info("%s: the process that waited for it ended", record.name)
        self.unwatch_leaf(record)
        self.shell_ended(record)
        task = asyncio.ensure_future(self._end_alone(record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_alone(self, record: CallRecord) -> Outcome:
        """Nobody tells how it ended, but the kernel does: perhaps a moment after the end."""
        status = None
        for _ in range(_LOOKS_FOR_EXIT if record.was_seen else 1):
            if record.was_seen:
                status = exit_of(record.owner_pidfd, record.owner.pid)
            if status is None:
                self.drain()
                status = record.child_exit
            if status is not None or record.ending is not None:
                break
            if record.was_seen:
                await asyncio.sleep(_LOOK_AGAIN_S)
        if status is None:
            status = None, None if record.intent.background is Background.KEEP else _KILLED
        return await self._ender.end(record, *status)


def _nothing(record: CallRecord) -> None:
    """Nobody else has to know."""


def _no_shells(session: SessionRecord, shell: ProcessRef) -> None:
    raise AssertionError("nobody was asked whether shells can be followed")
