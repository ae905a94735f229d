# SPDX-License-Identifier: Apache-2.0
"""May this process be placed for this caller? The daemon is nobody's deputy.

The target must be a live child of the caller with the caller's uid, no kernel thread,
and stand where the caller's own processes stand. Numeric pids are reused, so it is
checked again right before the write, and confirmed after it.
"""

from __future__ import annotations

import contextlib
import os

from ..cgroupfs import pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access
from .identity import Identity
from .records import ProcessRef

__all__ = ["Target", "check_target", "confirm_place", "place"]


class Target:
    """A checked pidfd; owned, closed with the object."""

    __slots__ = ("fd", "ref")

    def __init__(self, fd: int, ref: ProcessRef) -> None:
        self.fd = fd
        self.ref = ref

    @property
    def pid(self) -> int:
        return self.ref.pid

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def check_target(
    fd: int, identity: Identity, own_cgroups: tuple[str, ...], tree_path: str, *, outside: bool
) -> Target:
    """`own_cgroups`: where the caller's own processes stand in the tree; `outside`: the
    target may also be in no session at all (the caller is an administrator or an agent
    outside of its session).

    `tree_path` is the tree's path in the v2 hierarchy. Raises target_refused.
    """
    pid = pidfd.pid_of(fd)
    if pid is None or not pidfd.is_alive(fd):
        raise _refused("the process has ended", pid)
    status = proc.status(pid)
    if status is None:
        raise _refused("the process has ended", pid)
    if status.is_kthread or pid == 1:
        raise _refused("it is a kernel thread or PID 1", pid)
    if status.ppid != identity.pid:
        raise _refused("it is not a child of the caller", pid)
    if identity.role is not Access.ADMIN and status.uid != identity.uid:
        raise _refused("it runs as another user", pid)
    where = proc.cgroup_path(pid)
    if where is None:
        raise _refused("its cgroup can't be read", pid)
    in_tree = where == tree_path or where.startswith(tree_path + "/")
    if where not in own_cgroups and (in_tree or not outside):
        raise _refused("it stands in a cgroup that is not the caller's", pid)
    if not pidfd.is_alive(fd):
        raise _refused("the process has ended", pid)
    return Target(fd, ProcessRef(pid, status.start_ticks))


def place(leaf: CgroupLike, target: Target) -> None:
    """Move and confirm. Raises target_refused when the process ended on the way."""
    if not pidfd.is_alive(target.fd):
        raise _refused("the process has ended", target.pid)
    try:
        leaf.move(target.pid)
    except ProcessLookupError:
        raise _refused("the process has ended", target.pid) from None


def confirm_place(leaf: CgroupLike, leaf_path: str, target: Target) -> None:
    """Alive after the move and really there: then it was this process that was moved."""
    where = proc.cgroup_path(target.pid)
    if where == leaf_path and pidfd.is_alive(target.fd):
        return
    if not pidfd.is_alive(target.fd):
        # The number may belong to somebody else already, whom our write then moved.
        _move_back(leaf, target.pid)
        raise _refused("the process ended while it was placed", target.pid)
    raise _refused("it could not be placed", target.pid)


def _move_back(leaf: CgroupLike, pid: int) -> None:
    """This process alone: others in the leaf belong there."""
    if pid not in leaf.procs():
        return
    status = proc.status(pid)
    where = proc.cgroup_path(status.ppid) if status else None
    if where:
        mount = proc.cgroup2_mount_point()
        with (
            contextlib.suppress(OSError),
            open(f"{mount}{where}/cgroup.procs", "w", encoding="ascii") as procs,
        ):
            procs.write(str(pid))


def _refused(why: str, pid: int | None) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED,
        f"cannot place this process: {why}",
        field="pidfd",
        value=pid,
        remedy="pass the pidfd of a waiting child that you forked yourself",
    )
