# SPDX-License-Identifier: Apache-2.0
"""Sessions: create, adopt (by process, or a cgroup in place), update, detach, end. Bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

from ..cgroupfs import files, proc, tree
from ..cgroupfs.api import CgroupLike
from ..enforce import files as enforce
from ..errors import CgroupGoneError, printable
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import SessionUpdate
from ..types import inputs as i
from ..types.sessions import Mode, SessionKind, SessionSpec
from . import in_place, layout
from .agent_process import AgentProcess, checked_agent, move_in
from .budgets import check_not_below, checked_reserve_bytes
from .config import BoundaryConfig, SessionDefaults
from .containment import judge, look_at
from .core import Core
from .figures import oom_counts
from .places import Places
from .records import SESSION_XATTR, SessionRecord
from .refusals import session_exists
from .session_reports import current_int

__all__ = ["Sessions"]

_log = get_logger(__name__)
_DRAIN_ROUNDS = 50


class Sessions:
    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        defaults: SessionDefaults,
        mode: Mode,
        open_cgroup: Callable[[str], CgroupLike],
        places: Places,
        boundary: BoundaryConfig,
    ) -> None:
        self.on_agent_ended: Callable[[str], None] | None = None
        self._open_cgroup = open_cgroup
        self._core = core
        self._root = root
        self._defaults = defaults
        self._mode = mode
        self._places = places
        self._boundary = boundary
        self._watched: dict[str, int] = {}
        self._serial = 0

    # --- life

    def create(
        self,
        spec: SessionSpec,
        agent_pidfd: int | None = None,
        *,
        adopt: bool = False,
    ) -> SessionRecord:
        """Make the session and bind or move its agent; a failure leaves nothing behind."""
        name = spec.name or self._fresh_name()
        spec = self._boundary.applied(spec, adopted=adopt)
        agent = self._agent(agent_pidfd)
        self._check_room(name, spec)
        try:
            session, agent_cg, tools = layout.make_session(self._root, name)
        except FileExistsError:
            raise session_exists(name) from None
        record = self._record(name, spec, session, agent_cg, tools)
        return self._establish(record, agent, with_descendants=adopt)

    def adopt_in_place(
        self,
        spec: SessionSpec,
        cgroup: CgroupLike,
        agent_pidfd: int | None = None,
        container: str | None = None,
    ) -> SessionRecord:
        """A cgroup that is there becomes the session. Owns `cgroup`; a failure changes nothing."""
        try:
            where = tree.proc_path(cgroup)
            name = spec.name or self._fresh_name()
            asked, spec = spec, in_place.with_own_limits(spec, cgroup)
            spec = self._boundary.applied(spec, adopted=True)
            agent = self._agent(agent_pidfd)
            self._check_room(name, spec)
            self._check_place(where, agent if spec.kind is SessionKind.INSIDE else None)
            in_place.note_link(self._root, name, cgroup)
            try:
                agent_cg, tools, was = in_place.split(cgroup)
            except BaseException:
                in_place.forget_link(self._root, name)
                raise
        except BaseException:
            cgroup.close()
            raise
        record = self._record(name, spec, cgroup, agent_cg, tools)
        if asked.memory is None:
            was[files.MEMORY_MAX] = files.MAX if spec.memory is None else str(spec.memory)
        record.in_place, record.was, record.container = where, was, container
        return self._establish(record, agent, with_descendants=False)

    def _check_room(self, name: str, spec: SessionSpec) -> None:
        if name in self._core.sessions:
            raise session_exists(name)
        self._reserve_bytes(spec)

    def _reserve_bytes(self, spec: SessionSpec) -> int:
        return checked_reserve_bytes(spec, self._host_bytes(), self._defaults.memory_reserve)

    def _check_place(self, where: str, agent: AgentProcess | None) -> None:
        """Sessions don't nest, whichever was there first; an agent inside is inside."""
        stands = proc.cgroup_path(agent.pid) if agent is not None else where
        if stands is None or not f"{stands}/".startswith(f"{where}/"):
            raise ProtocolError(
                Kind.TARGET_REFUSED, "the agent is not in this cgroup", field="pid",
                value=stands, remedy="name a process that is, or say that it is outside",
            )  # fmt: skip
        inside = [p for p in self._core.in_place if p.startswith(f"{where}/")]
        if self._places.taken(where) or self._places.above_tree(where) or inside:
            raise ProtocolError(
                Kind.TARGET_REFUSED, "a session is in this cgroup, or it is in a session",
                field="cgroup", value=where, remedy="see: agentcgroup session list",
            )  # fmt: skip

    def _record(
        self,
        name: str,
        spec: SessionSpec,
        cgroup: CgroupLike,
        agent: CgroupLike,
        tools: CgroupLike,
    ) -> SessionRecord:
        return SessionRecord(
            name=name,
            spec=spec.model_copy(update={"name": name}),
            mode=spec.mode or self._mode,
            cgroup=cgroup,
            agent=agent,
            tools=tools,
            created_epoch_s=time.time(),
            pids_max=spec.pids_max or self._defaults.pids_max,
            reserve_bytes=self._reserve_bytes(spec),
        )

    def _establish(
        self, record: SessionRecord, agent: AgentProcess | None, *, with_descendants: bool
    ) -> SessionRecord:
        try:
            self._write_limits(record)
            if agent is not None:
                self._bind(record, agent, with_descendants=with_descendants)
            self._note_agent(record, agent)
        except BaseException:
            self._undo(record)
            raise
        self.register(record)
        self._core.decisions.record(
            self._core.clock.now_ns(), "session", record.name, None,
            {"event": "begin", "spec": record.spec.describe(), "container": record.container},
        )  # fmt: skip
        return record

    @staticmethod
    def _note_agent(record: SessionRecord, agent: AgentProcess | None) -> None:
        facts = look_at(agent.pid, agent.uid) if agent is not None else None
        record.containment, record.containment_reason = judge(facts)
        record.cgroup.set_xattr(SESSION_XATTR, record.to_xattr())

    def bind(self, record: SessionRecord, agent_pidfd: int) -> None:
        """The agent of a session whose agent is outside: it may come later, or be another."""
        agent = checked_agent(agent_pidfd, self._places.taken)
        record.bound_agent = agent.ref
        self._note_agent(record, agent)

    def register(self, record: SessionRecord) -> None:
        """Make a session known: to policy, and its agent's end to us."""
        record.oom_counts = oom_counts(record, self._root)
        self._core.sessions[record.name] = record
        if record.in_place is not None:
            self._core.in_place[record.in_place] = record.name
        self._core.feed(
            i.SessionBegin(
                self._core.clock.now_ns(),
                record.name,
                record.spec.priority,
                layout.policy_budget_bytes(record.spec.memory),
                record.reserve_bytes,
                record.mode,
                record.spec.cpu,
            )
        )
        if record.spec.ephemeral and record.bound_agent is not None:
            self._watch_agent(record)

    def update(self, change: SessionUpdate, *, follows: bool = False) -> SessionRecord:
        """`follows`: a budget that is the cgroup's own limit, which somebody changed."""
        record = self.get(change.session)
        given = change.model_dump(exclude_none=True, exclude={"session", "mode"})
        spec = record.spec.model_copy(update=given)
        spec = SessionSpec.model_validate(spec.model_dump())
        if record.in_place is not None:
            spec = in_place.with_own_limits(spec, record.cgroup)
        reserve = self._reserve_bytes(spec)
        if spec.memory is not None:
            check_not_below(record, spec.memory, reserve)
        if change.memory is not None and not follows:
            record.was.pop(files.MEMORY_MAX, None)
        enforced_before = record.mode is Mode.ENFORCE
        record.spec, record.reserve_bytes = spec, reserve
        record.mode = change.mode or record.mode
        record.pids_max = spec.pids_max or record.pids_max
        self._write_limits(record)
        record.cgroup.set_xattr(SESSION_XATTR, record.to_xattr())
        self._core.feed(
            i.SessionUpdate(
                self._core.clock.now_ns(), record.name, spec.priority,
                layout.policy_budget_bytes(spec.memory), reserve, record.mode, spec.cpu,
            )
        )  # fmt: skip
        if enforced_before and record.mode is not Mode.ENFORCE:
            for call in record.calls.values():
                if call.leaf is not None:
                    enforce.lift_limits(call.leaf)
                    call.note_thawed(self._core.clock.now_ns())
                    call.save()
        return record

    async def detach(self, record: SessionRecord) -> None:
        """Give the processes back to where they came from and remove the session's cgroups."""
        if record.in_place is None:
            self._move_out(record)
        self._forget(record)
        await self._remove_cgroups(record)
        self._core.decisions.record(
            self._core.clock.now_ns(), "session", record.name, None, {"event": "detach"}
        )

    def _move_out(self, record: SessionRecord) -> None:
        mount = proc.cgroup2_mount_point() or ""
        try:
            origin = self._open_cgroup(mount + (record.origin or "/"))
        except CgroupGoneError:
            origin = self._open_cgroup(mount)
        with origin:
            for _ in range(_DRAIN_ROUNDS):
                pids = record.cgroup.procs()
                pids += [pid for below in tree.walk(record.cgroup) for pid in below.procs()]
                if not pids:
                    break
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        origin.move(pid)

    async def end(self, record: SessionRecord, *, with_place: bool = False) -> None:
        """Kill everything in it and remove it. Its calls were ended before.

        What was adopted in place is given back instead, and lives on, unless `with_place`.
        """
        self._forget(record)
        self._core.open_gate()
        if record.in_place is None or with_place:
            with contextlib.suppress(CgroupGoneError):
                record.cgroup.kill()
        await self._remove_cgroups(record)
        self._core.decisions.record(
            self._core.clock.now_ns(), "session", record.name, None, {"event": "end"}
        )

    # --- questions

    def get(self, name: str) -> SessionRecord:
        record = self._core.sessions.get(name)
        if record is None:
            raise ProtocolError(
                Kind.NOT_FOUND, f"there is no session {printable(name)}", field="session",
                value=name, remedy="see: agentcgroup session list",
            )  # fmt: skip
        return record

    # --- parts

    def _fresh_name(self) -> str:
        while True:
            self._serial += 1
            name = f"session-{self._serial}"
            if name not in self._core.sessions:
                return name

    def _host_bytes(self) -> int:
        """The root's own memory.max where there is one: policy stays a margin below it."""
        budget = self._core.state.budget_bytes
        return max(budget, min(current_int(self._root, files.MEMORY_MAX) or 0, 2 * budget))

    def _write_limits(self, record: SessionRecord) -> None:
        reserve = min(self._defaults.pids_reserve, record.pids_max // 2)
        if record.in_place is not None and record.mode is Mode.ENFORCE:
            in_place.write_limits(record, pids_reserve=reserve)
        elif record.in_place is not None:
            in_place.lift_limits(record)
        elif record.mode is not Mode.ENFORCE:
            layout.lift_session_limits(record.cgroup, record.agent, record.tools)
        else:
            layout.write_session_limits(
                record.cgroup, record.agent, record.tools, record.spec,
                reserve_bytes=record.reserve_bytes, pids_max=record.pids_max,
                pids_reserve=reserve,
            )  # fmt: skip

    def _agent(self, fd: int | None) -> AgentProcess | None:
        return None if fd is None else checked_agent(fd, self._places.taken)

    @staticmethod
    def _bind(record: SessionRecord, agent: AgentProcess, *, with_descendants: bool) -> None:
        record.bound_agent = agent.ref
        if record.in_place is not None:
            return  # one inside moved with its cgroup
        record.origin = proc.cgroup_path(agent.pid)
        if record.kind is SessionKind.INSIDE:
            move_in(record.agent, agent, with_descendants=with_descendants)

    def _watch_agent(self, record: SessionRecord) -> None:
        fd = record.bound_agent.open() if record.bound_agent else None
        loop = asyncio.get_running_loop()
        if fd is None:
            loop.call_soon(self._agent_ended, record.name)
            return
        self._watched[record.name] = fd
        loop.add_reader(fd, self._agent_ended, record.name)

    def _agent_ended(self, name: str) -> None:
        self._unwatch(name)
        if name in self._core.sessions and self.on_agent_ended is not None:
            self.on_agent_ended(name)

    def _unwatch(self, name: str) -> None:
        fd = self._watched.pop(name, None)
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _forget(self, record: SessionRecord) -> None:
        self._unwatch(record.name)
        self._core.in_place.pop(record.in_place or "", None)
        if self._core.sessions.pop(record.name, None) is not None:
            self._core.feed(i.SessionEnd(self._core.clock.now_ns(), record.name))

    async def _remove_cgroups(self, record: SessionRecord) -> None:
        for _ in range(200):
            try:
                self._give_back(record)
                break
            except CgroupGoneError:
                break
            except OSError:
                await asyncio.sleep(0.02)
        else:
            _log.warning("session %s: its cgroup is still busy and stays for now", record.name)
        self._close(record)

    def _undo(self, record: SessionRecord) -> None:
        if record.origin is not None and record.bound_agent is not None:
            mount = proc.cgroup2_mount_point() or ""
            with (
                contextlib.suppress(OSError, CgroupGoneError),
                self._open_cgroup(mount + record.origin) as origin,
            ):
                for pid in record.agent.procs():
                    origin.move(pid)
        with contextlib.suppress(OSError):
            self._give_back(record)
        self._close(record)

    def _give_back(self, record: SessionRecord) -> None:
        if record.in_place is None:
            record.cgroup.remove_tree()
            return
        in_place.merge(record.cgroup, record.was)
        in_place.forget_link(self._root, record.name)

    @staticmethod
    def _close(record: SessionRecord) -> None:
        for cgroup in (record.background, record.tools, record.agent, record.cgroup):
            if cgroup is not None:
                cgroup.close()
