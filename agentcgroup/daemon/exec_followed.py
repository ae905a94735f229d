# SPDX-License-Identifier: Apache-2.0
"""Whose execs a source of execs is to tell of, and which processes begin no call by themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from dataclasses import dataclass

from ..bpf.boundary import Own
from ..cgroupfs import proc
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError
from ..log import get_logger
from ..types.sessions import Boundary
from .config import BoundaryConfig
from .exec_source import Source
from .records import ProcessRef, SessionRecord

__all__ = ["Followed", "move_descendants"]

# They ask for their leaf themselves.
_COOPERATING = ("agentcgroup-run", "agentcgroup")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Owned:
    """A process that begins no call by itself, and in whose session."""

    process: ProcessRef
    session: str


class Followed:
    """What the source was told, by session."""

    def __init__(self, source: Source, config: BoundaryConfig) -> None:
        self._source = source
        self._config = config
        self._agents: dict[int, str] = {}
        self._owned: dict[int, _Owned] = {}

    def sessions(self) -> list[str]:
        return sorted(set(self._agents.values()))

    def session_at(self, cgroup_id: int) -> str:
        """Whose agent stands in this cgroup; empty if nobody's does any more."""
        return self._agents.get(cgroup_id, "")

    def add(self, record: SessionRecord) -> None:
        """With the rules that hold for it now."""
        config, spec = self._config, record.spec
        programs = config.programs if spec.boundary_programs is None else spec.boundary_programs
        ignored = config.ignore if spec.boundary_ignore is None else spec.boundary_ignore
        for process in _own_agents(record):
            self.own(process, record.name, Own.AGENT)
        self._tell(record, list(programs), [*_COOPERATING, *ignored])

    def add_shell(self, record: SessionRecord, shell: ProcessRef, kind: Own) -> None:
        """In a session without the exec boundary, too: then its commands alone are followed."""
        if record.agent.id not in self._agents:
            self._tell(record, [], [])
        self.own(shell, record.name, kind)

    def own(self, process: ProcessRef, session: str, kind: Own) -> None:
        start_ticks = proc.start_time_ticks(process.pid)
        if start_ticks is None or ProcessRef.of(process.pid) != process:
            return
        self._source.own(process.pid, start_ticks, kind)
        self._owned[process.pid] = _Owned(process, session)

    def remove(self, session: str) -> None:
        for cgroup_id in [c for c, name in self._agents.items() if name == session]:
            self._source.remove_agent(cgroup_id)
            del self._agents[cgroup_id]
        for pid in [pid for pid, owned in self._owned.items() if owned.session == session]:
            self._disown(pid)

    def forget_dead(self, but: Container[int]) -> None:
        for pid, owned in list(self._owned.items()):
            if pid not in but and ProcessRef.of(pid) != owned.process:
                self._disown(pid)

    def _disown(self, pid: int) -> None:
        del self._owned[pid]
        self._source.disown(pid)

    def _tell(self, record: SessionRecord, programs: list[str], ignored: list[str]) -> None:
        entrants = record.in_place is not None and record.spec.boundary is Boundary.EXEC
        try:
            self._source.add_agent(record.agent.id, programs, ignored, entrants=entrants)
        except OSError as error:
            _log.warning("execs of session %s are not followed: %s", record.name, error)
            return
        self._agents[record.agent.id] = record.name


def _own_agents(record: SessionRecord) -> list[ProcessRef]:
    """The agent, and what stands in agent/ without having been started from there."""
    found = [] if record.bound_agent is None else [record.bound_agent]
    if record.in_place is None:
        return found
    with contextlib.suppress(CgroupGoneError):
        inside = set(record.agent.procs())
        for pid in inside:
            status, process = proc.status(pid), ProcessRef.of(pid)
            if status is not None and process is not None and status.ppid not in inside:
                found.append(process)
    return found


def move_descendants(pid: int, origin: str, leaf: CgroupLike) -> int:
    """Those that stand in the cgroup `origin`; how many were moved."""
    moved, queue = 0, proc.children(pid)
    while queue:
        child = queue.pop()
        queue += proc.children(child)
        if proc.cgroup_path(child) == origin:
            with contextlib.suppress(ProcessLookupError):
                leaf.move(child)
                moved += 1
    return moved
