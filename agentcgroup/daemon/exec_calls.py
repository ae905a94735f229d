# SPDX-License-Identifier: Apache-2.0
"""The exec boundary: what an agent of a session starts gets a leaf, without being declared.

A source tells of execs: BPF, which stops the process before its first instruction, or the
process connector, which tells a moment later. Whoever was stopped is continued, whatever
happens: placed, killed when policy refuses it, or left where it is when it can't be placed.
Nobody is stopped once this daemon is silent, and the guardian continues who then still is.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from typing import Any

from ..bpf.boundary import Own, Stopped
from ..cgroupfs import pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError, NotSupportedError
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..types.events import BoundaryEvent, ExitEvent
from ..types.sessions import Boundary, Mode
from . import layout
from .calls import Calls
from .config import BoundaryConfig
from .core import Core
from .exec_followed import Followed, move_descendants
from .exec_source import (
    STOPPED_XATTR,
    Source,
    close_source,
    event_of,
    open_source,
    source_name,
    target_of,
)
from .places import Places
from .records import CallRecord, ProcessRef, SessionRecord
from .refusals import shell_elsewhere, shell_in_call, shells_not_followed
from .target import Target, place

__all__ = ["ExecCalls"]

_LOOKS = 4
_LOOK_AGAIN_S = 0.002
_ROUNDS = 20
_SWEEP_S = 1.0
# Who was on its way to be stopped when nobody was to be stopped any more.
_LAST_STOP_S = 0.01
_SWEEPS_A_CARE = 30
_UNHEARD_NS = 1_000_000_000
_SPARE_S = 60.0
_log = get_logger(__name__)


class ExecCalls:
    """`watch_session` every session; the source is opened with the first that needs it."""

    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        calls: Calls,
        places: Places,
        config: BoundaryConfig,
        lease_s: float,
    ) -> None:
        """`lease_s`: nobody is stopped when the last `beat` is longer ago."""
        self._core = core
        self._root = root
        self._calls = calls
        self._places = places
        self._config = config
        self._lease_ns = int(lease_s * 1e9)
        self._loop = asyncio.get_running_loop()
        self._source: Source | None = None
        self.missing: dict[str, str] = {}
        self._followed: Followed | None = None
        self._shells: dict[int, CallRecord] = {}
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._counts: Counter[str] = Counter()
        self._sweeping: asyncio.Task[None] | None = None
        calls.check_shell = self._check_shell
        calls.shell_begins = self._shell_begins
        calls.shell_ended = self._shell_ended

    # --- life

    def start(self) -> None:
        """After recovery: whom a predecessor left standing is continued at the next look."""
        if self._source is None and self._root.get_xattr(STOPPED_XATTR):
            self._open()
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Who waits for a place goes on without one."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._source is None:
            return
        self._source.renew(0)
        await asyncio.sleep(_LAST_STOP_S)
        for stopped in self._source.stopped():
            self._let_go(stopped)

    def _let_go(self, stopped: Stopped) -> None:
        target = target_of(event_of(stopped))
        if target is not None:
            pidfd.send_signal(target.fd, signal.SIGCONT)
            target.close()
        self._forget(stopped.pid)

    def close(self) -> None:
        if self._source is None:
            return
        self._loop.remove_reader(self._source.fileno())
        source, self._source, self._followed = self._source, None, None
        close_source(source, self._root)

    def beat(self) -> None:
        """This daemon reacts: processes may be stopped for a while longer."""
        if self._source is not None:
            self._source.renew(self._core.clock.now_ns() + self._lease_ns)

    def layers(self) -> list[str]:
        return ["declared"] if self._source is None else ["declared", "exec"]

    def report(self) -> dict[str, Any]:
        """For `host.status`."""
        source = self._source
        return {
            "source": None if source is None else source_name(source),
            "stops": source is not None and bool(source.programs()),
            "programs": source.programs() if source is not None else [],
            "sessions": self._followed.sessions() if self._followed is not None else [],
            "waiting": len(self._busy),
            "counts": {
                **({} if source is None else source.counts()),
                **{name: self._counts[name] for name in _COUNTED},
            },
        }

    # --- sessions

    def watch_session(self, record: SessionRecord) -> None:
        """Also after a change of what is asked for."""
        if record.spec.boundary is Boundary.EXEC and record.mode is not Mode.OFF:
            followed = self._open()
            if followed is not None:
                followed.add(record)
            return
        self.unwatch_session(record.name)
        for call in record.calls.values():
            self._shell_begins(call)

    def unwatch_session(self, name: str) -> None:
        if self._followed is not None:
            self._followed.remove(name)

    # --- persistent shells

    def _check_shell(self, session: SessionRecord, shell: ProcessRef) -> None:
        """May this process's commands be placed? From now on its own exec begins no call."""
        followed = self._open()
        if followed is None:
            raise shells_not_followed(self.missing["exec"])
        if proc.cgroup_path(shell.pid) != self._agent_path(session):
            raise shell_elsewhere(shell.pid)
        known = self._shells.get(shell.pid)
        if known is not None and known.shell == shell:
            raise shell_in_call(shell.pid)
        followed.add_shell(session, shell, Own.SHELL)

    def _shell_begins(self, record: CallRecord) -> None:
        """Also of a call that was begun by a daemon before this one."""
        followed = self._open() if record.shell is not None else None
        if record.shell is not None and followed is not None:
            self._shells[record.shell.pid] = record
            session = self._core.sessions[record.session]
            followed.add_shell(session, record.shell, Own.SHELL_IN_CALL)

    def _shell_ended(self, record: CallRecord) -> None:
        if record.shell is None or self._shells.get(record.shell.pid) is not record:
            return
        del self._shells[record.shell.pid]
        if self._followed is not None:
            self._followed.own(record.shell, record.session, Own.SHELL)
        if record.leaf is None:
            return
        # What the shell forked and has not executed anything yet belongs to the call as well.
        agent = self._agent_path(self._core.sessions[record.session])
        for _ in range(_ROUNDS):
            if not move_descendants(record.shell.pid, agent, record.leaf):
                break

    # --- execs

    def _open(self) -> Followed | None:
        """Once; None when there is no source here."""
        if self._followed is not None or "exec" in self.missing:
            return self._followed
        try:
            source = open_source(self._root, self._config, self.missing)
        except NotSupportedError as error:
            self.missing["exec"] = str(error)
            _log.warning("the exec boundary is off, only declared calls have a leaf: %s", error)
            return None
        self._source, self._followed = source, Followed(source, self._config)
        self._loop.add_reader(source.fileno(), self._read)
        self.beat()
        return self._followed

    def _read(self) -> None:
        assert self._source is not None
        for event in self._source.read():
            if isinstance(event, BoundaryEvent):
                self._begin(event)
            elif isinstance(event, ExitEvent):
                self._note_exit(event)

    def _note_exit(self, event: ExitEvent) -> None:
        for record in self._core.calls.values():
            if record.owner.pid == event.pid and record.was_seen:
                record.child_exit = (event.exit_code, event.signal)

    def _begin(self, event: BoundaryEvent) -> None:
        if event.pid in self._busy:
            return
        task = asyncio.create_task(self._handle(event))
        self._busy[event.pid] = task
        task.add_done_callback(lambda _done: self._busy.pop(event.pid, None))

    async def _handle(self, event: BoundaryEvent) -> None:
        """Place it, and continue it in any case."""
        target = target_of(event)
        if target is None:
            self._forget(event.pid)
            return
        kill = False
        try:
            if event.stopped:
                await self._count_if_continued(event)
            kill = not await self._placed(event, target)
        except (OSError, CgroupGoneError) as error:
            self._counts["unplaced"] += 1
            _log.warning("a command of pid %d runs outside of a leaf: %s", event.ppid, error)
        finally:
            if kill:
                pidfd.send_signal(target.fd, signal.SIGKILL)
            if event.stopped:
                pidfd.send_signal(target.fd, signal.SIGCONT)
            self._forget(event.pid)
            target.close()

    def _forget(self, pid: int) -> None:
        if self._source is not None:
            self._source.forget(pid)

    async def _placed(self, event: BoundaryEvent, target: Target) -> bool:
        """False: policy refuses it, so it must not run."""
        where = self._followed.session_at(event.cgroup_id) if self._followed is not None else ""
        session = self._core.sessions.get(where)
        if session is None or session.ending:
            return True
        try:
            record = await self._call_of(event, session, target)
        except ProtocolError as error:
            if session.ending or error.kind is Kind.TARGET_REFUSED:
                return True
            self._counts["refused"] += 1
            _log.info("session %s: %s", session.name, error)
            return False
        if record is not None and record.leaf is not None:
            self._after(event, record.leaf, session)
            self._counts["placed"] += 1
        return True

    async def _call_of(
        self, event: BoundaryEvent, session: SessionRecord, target: Target
    ) -> CallRecord | None:
        """The shell's that started it, else one of its own. None: it ended meanwhile, or the
        shell's call did."""
        if event.shell_pid is None:
            return await self._admitted(event, session, target)
        record = self._shells.get(event.shell_pid)
        if record is not None and record.leaf is not None:
            place(record.leaf, target)
        return record

    async def _admitted(
        self, event: BoundaryEvent, session: SessionRecord, target: Target
    ) -> CallRecord | None:
        """None if it ended while it waited."""
        if event.stopped:
            self._allow_to_wait(event)
        begin = asyncio.ensure_future(self._calls.begin_seen(session, target, event.command))
        await asyncio.sleep(0)
        if not begin.done():
            self._loop.add_reader(target.fd, begin.cancel)
            try:
                await asyncio.wait([begin])
            finally:
                self._loop.remove_reader(target.fd)
                if not begin.done():
                    begin.cancel()
        return None if begin.cancelled() else begin.result()

    def _allow_to_wait(self, event: BoundaryEvent) -> None:
        stopped = self._source.stopped_process(event.pid) if self._source is not None else None
        if stopped is None or self._source is None:
            return
        longest_s = self._core.state.config.default_max_wait_s + _SPARE_S
        self._source.extend(stopped, self._core.clock.now_ns() + int(longest_s * 1e9))

    async def _count_if_continued(self, event: BoundaryEvent) -> None:
        """Somebody continued it before us: then code of it has run outside of its leaf."""
        for _ in range(_LOOKS):
            state = proc.state(event.pid)
            if state is None or state in "TtZX" or proc.stop_is_pending(event.pid):
                return
            # Between taking the signal and standing still it shows neither.
            await asyncio.sleep(_LOOK_AGAIN_S)
        known = self._source is not None and self._source.stopped_process(event.pid)
        self._counts["continued_early" if known else "continued_by_guardian"] += 1

    def _after(self, event: BoundaryEvent, leaf: CgroupLike, session: SessionRecord) -> None:
        """One that was not stopped may have started others meanwhile."""
        if not event.stopped:
            move_descendants(event.pid, self._agent_path(session), leaf)

    def _agent_path(self, session: SessionRecord) -> str:
        return f"{self._places.room(session)}/{layout.AGENT}"

    # --- who was not heard of

    async def _sweep(self) -> None:
        rounds = itertools.count()
        while True:
            try:
                self._look_for_stopped()
                if self._followed is not None and next(rounds) % _SWEEPS_A_CARE == 0:
                    self._followed.forget_dead(but=self._shells)
            except (OSError, CgroupGoneError):
                _log.exception("cannot look after stopped processes")
            await asyncio.sleep(_SWEEP_S)

    def _look_for_stopped(self) -> None:
        now = self._core.clock.now_ns()
        for stopped in self._source.stopped() if self._source is not None else ():
            if stopped.pid not in self._busy and now - stopped.stopped_ns > _UNHEARD_NS:
                self._counts["recovered"] += 1
                self._begin(event_of(stopped))


_COUNTED = (
    "placed", "refused", "unplaced", "continued_early", "continued_by_guardian", "recovered",
)  # fmt: skip
