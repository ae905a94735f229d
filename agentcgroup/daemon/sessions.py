# SPDX-License-Identifier: Apache-2.0
"""Sessions: create, adopt, update, detach, end; and what is told about them. Bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..cgroupfs import files, pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..enforce import files as enforce
from ..errors import CgroupGoneError, printable
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import SessionUpdate
from ..types import inputs as i
from ..types.sessions import Containment, Mode, SessionKind, SessionSpec
from . import layout
from .budgets import check_not_below, checked_reserve_bytes
from .config import SessionDefaults
from .core import Core
from .figures import oom_counts
from .records import SESSION_XATTR, ProcessRef, SessionRecord
from .session_reports import current_int

__all__ = ["Sessions"]

_log = get_logger(__name__)
_DRAIN_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class _Agent:
    pid: int
    ref: ProcessRef
    uid: int


class Sessions:
    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        defaults: SessionDefaults,
        mode: Mode,
        open_cgroup: Callable[[str], CgroupLike],
    ) -> None:
        self.on_agent_ended: Callable[[str], None] | None = None
        self._open_cgroup = open_cgroup
        self._core = core
        self._root = root
        self._defaults = defaults
        self._mode = mode
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
        reserve = checked_reserve_bytes(spec, self._host_bytes(), self._defaults.memory_reserve)
        agent = self._agent(agent_pidfd) if agent_pidfd is not None else None
        if name in self._core.sessions:
            raise _exists(name)
        try:
            session, agent_cg, tools = layout.make_session(self._root, name)
        except FileExistsError:
            raise _exists(name) from None
        record = SessionRecord(
            name=name,
            spec=spec.model_copy(update={"name": name}),
            mode=spec.mode or self._mode,
            cgroup=session,
            agent=agent_cg,
            tools=tools,
            created_epoch_s=time.time(),
            pids_max=spec.pids_max or self._defaults.pids_max,
            reserve_bytes=reserve,
        )
        try:
            self._write_limits(record)
            if agent is not None:
                self._bind(record, agent, with_descendants=adopt)
            self._judge_containment(record, agent)
            session.set_xattr(SESSION_XATTR, record.to_xattr())
        except BaseException:
            self._undo(record)
            raise
        self.register(record)
        self._core.decisions.record(
            self._core.clock.now_ns(), "session", name, None,
            {"event": "begin", "spec": record.spec.describe()},
        )  # fmt: skip
        return record

    def register(self, record: SessionRecord) -> None:
        """Make a session known: to policy, and its agent's end to us."""
        record.oom_counts = oom_counts(record, self._root)
        self._core.sessions[record.name] = record
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

    def update(self, change: SessionUpdate) -> SessionRecord:
        record = self.get(change.session)
        given = change.model_dump(exclude_none=True, exclude={"session", "mode"})
        spec = record.spec.model_copy(update=given)
        spec = SessionSpec.model_validate(spec.model_dump())
        reserve = checked_reserve_bytes(spec, self._host_bytes(), self._defaults.memory_reserve)
        if spec.memory is not None:
            check_not_below(record, spec.memory, reserve)
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
        mount = proc.cgroup2_mount_point() or ""
        try:
            origin = self._open_cgroup(mount + (record.origin or "/"))
        except CgroupGoneError:
            origin = self._open_cgroup(mount)
        with origin:
            for _ in range(_DRAIN_ROUNDS):
                pids = [p for cg in self._every_cgroup(record.cgroup) for p in cg.procs()]
                if not pids:
                    break
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        origin.move(pid)
        self._forget(record)
        await self._remove_cgroups(record)
        self._core.decisions.record(
            self._core.clock.now_ns(), "session", record.name, None, {"event": "detach"}
        )

    async def end(self, record: SessionRecord) -> None:
        """Kill everything in it and remove it. Its calls were ended before."""
        self._forget(record)
        self._core.open_gate()
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
        if record.mode is not Mode.ENFORCE:
            layout.lift_session_limits(record.cgroup, record.agent, record.tools)
            return
        layout.write_session_limits(
            record.cgroup, record.agent, record.tools, record.spec,
            reserve_bytes=record.reserve_bytes,
            pids_max=record.pids_max,
            pids_reserve=min(self._defaults.pids_reserve, record.pids_max // 2),
        )  # fmt: skip

    def _agent(self, fd: int) -> _Agent:
        pid = pidfd.pid_of(fd)
        status = proc.status(pid) if pid is not None else None
        ref = ProcessRef.of(pid) if pid is not None else None
        if pid is None or status is None or ref is None or not pidfd.is_alive(fd):
            raise _no_agent("the process has ended", pid)
        if status.is_kthread or pid == 1 or pid == os.getpid():
            raise _no_agent("it is a kernel thread, PID 1 or the daemon itself", pid)
        where = proc.cgroup_path(pid)
        tree = self.tree_path()
        if where is None or where == tree or where.startswith(tree + "/"):
            raise _no_agent("it is part of a session already", pid)
        return _Agent(pid, ref, status.uid)

    def _bind(self, record: SessionRecord, agent: _Agent, *, with_descendants: bool) -> None:
        record.bound_agent = agent.ref
        record.origin = proc.cgroup_path(agent.pid)
        if record.kind is SessionKind.OUTSIDE:
            return
        try:
            record.agent.move(agent.pid)
        except ProcessLookupError:
            raise _no_agent("the process has ended", agent.pid) from None
        if ProcessRef.of(agent.pid) != agent.ref:
            raise _no_agent("the process has ended", agent.pid)
        if with_descendants:
            self._move_descendants(record.agent, agent.pid)

    @staticmethod
    def _move_descendants(agent_cgroup: CgroupLike, pid: int) -> None:
        """New children are born in agent/ already; repeat until no old one is left."""
        moved = {pid}
        for _ in range(_DRAIN_ROUNDS):
            family, queue = set[int](), [pid]
            while queue:
                parent = queue.pop()
                for child in proc.children(parent):
                    if child not in family:
                        family.add(child)
                        queue.append(child)
            if family <= moved:
                return
            for child in family - moved:
                with contextlib.suppress(ProcessLookupError):
                    agent_cgroup.move(child)
                moved.add(child)

    def _judge_containment(self, record: SessionRecord, agent: _Agent | None) -> None:
        """Contained is who has no cgroupfs write access, no CAP_SYS_ADMIN, no engine socket."""
        if agent is None:
            reason = "no agent is bound: what runs in the session is not known to be confined"
            record.containment, record.containment_reason = Containment.ADVISORY, reason
        elif agent.uid == 0 and proc.namespace_id(agent.pid, "user") == proc.namespace_id(
            "self", "user"
        ):
            reason = "the agent runs as root on the host and can write the cgroup files itself"
            record.containment, record.containment_reason = Containment.ADVISORY, reason
        else:
            reason = f"the agent runs as uid {agent.uid} without write access to the cgroup files"
            record.containment, record.containment_reason = Containment.ENFORCED, reason

    def tree_path(self) -> str:
        """Path of the tree in the v2 hierarchy, as /proc/PID/cgroup shows it."""
        mount = proc.cgroup2_mount_point() or "/sys/fs/cgroup"
        return self._root.path.removeprefix(mount.rstrip("/"))

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
        if self._core.sessions.pop(record.name, None) is not None:
            self._core.feed(i.SessionEnd(self._core.clock.now_ns(), record.name))

    async def _remove_cgroups(self, record: SessionRecord) -> None:
        for _ in range(200):
            try:
                record.cgroup.remove_tree()
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
            record.cgroup.remove_tree()
        self._close(record)

    @staticmethod
    def _close(record: SessionRecord) -> None:
        for cgroup in (record.background, record.tools, record.agent, record.cgroup):
            if cgroup is not None:
                cgroup.close()

    def _every_cgroup(self, cgroup: CgroupLike) -> list[CgroupLike]:
        found = [cgroup]
        for name in cgroup.children():
            with contextlib.suppress(CgroupGoneError):
                found += self._every_cgroup(cgroup.child(name))
        return found


def _exists(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.ALREADY_EXISTS, f"there is a session '{name}' already", field="name", value=name,
        remedy="choose another name or end that session",
    )  # fmt: skip


def _no_agent(why: str, pid: int | None) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED, f"cannot take this process as the agent: {why}", field="pid",
        value=pid, remedy="name a live process that belongs to no session",
    )  # fmt: skip
