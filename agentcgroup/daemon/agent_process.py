# SPDX-License-Identifier: Apache-2.0
"""The process that a session is made for: may it be, and into agent/ with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from ..cgroupfs import pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..protocol.errors import Kind, ProtocolError
from .records import ProcessRef

__all__ = ["AgentProcess", "checked_agent", "move_in"]

_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class AgentProcess:
    pid: int
    ref: ProcessRef
    uid: int


def checked_agent(fd: int, taken: Callable[[str], bool]) -> AgentProcess:
    """`taken`: is a cgroup the tree's or a session's? Raises target_refused."""
    pid = pidfd.pid_of(fd)
    status = proc.status(pid) if pid is not None else None
    ref = ProcessRef.of(pid) if pid is not None else None
    if pid is None or status is None or ref is None or not pidfd.is_alive(fd):
        raise _refused("the process has ended", pid)
    if status.is_kthread or pid == 1 or pid == os.getpid():
        raise _refused("it is a kernel thread, PID 1 or the daemon itself", pid)
    where = proc.cgroup_path(pid)
    if where is None or taken(where):
        raise _refused("it is part of a session already", pid)
    return AgentProcess(pid, ref, status.uid)


def move_in(cgroup: CgroupLike, agent: AgentProcess, *, with_descendants: bool) -> None:
    """Raises target_refused if it ended meanwhile."""
    try:
        cgroup.move(agent.pid)
    except ProcessLookupError:
        raise _refused("the process has ended", agent.pid) from None
    if ProcessRef.of(agent.pid) != agent.ref:
        raise _refused("the process has ended", agent.pid)
    if with_descendants:
        _move_descendants(cgroup, agent.pid)


def _move_descendants(cgroup: CgroupLike, pid: int) -> None:
    """New children are born in it already; repeat until no old one is left."""
    moved = {pid}
    for _ in range(_ROUNDS):
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
                cgroup.move(child)
            moved.add(child)


def _refused(why: str, pid: int | None) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED, f"cannot take this process as the agent: {why}", field="pid",
        value=pid, remedy="name a live process that belongs to no session",
    )  # fmt: skip
