# SPDX-License-Identifier: Apache-2.0
"""May this process be placed for this caller? The daemon is nobody's deputy.

The target must be a live child of the caller with the caller's uid (so never a kernel
thread) and stand where the caller's own processes stand. Numeric pids are reused, so it
is checked again right before the write, and confirmed after it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ..cgroupfs import pidfd, proc, whereabouts
from ..cgroupfs.api import CgroupLike
from ..cgroupfs.pidfd import PidInfo
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access
from .identity import Identity
from .records import ProcessRef

__all__ = [
    "Target", "check_target", "confirm_place", "exit_of", "owner_of", "place", "received_target",
]  # fmt: skip


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


def received_target(
    fd: int | None,
    identity: Identity,
    own_cgroups: tuple[str, ...],
    taken: Callable[[str], bool],
    *,
    outside: bool,
) -> Target:
    """What came with a request, checked; owns `fd`. See `check_target`."""
    if fd is None:
        raise ProtocolError(
            Kind.BAD_DESCRIPTOR, "tool.begin needs the pidfd of the waiting child",
            field="pidfd", remedy="send it by SCM_RIGHTS with the first byte of the message",
        )  # fmt: skip
    try:
        return check_target(fd, identity, own_cgroups, taken, outside=outside)
    except BaseException:
        os.close(fd)
        raise


def check_target(
    fd: int,
    identity: Identity,
    own_cgroups: tuple[str, ...],
    taken: Callable[[str], bool],
    *,
    outside: bool,
) -> Target:
    """`own_cgroups`: where the caller's own processes stand in the tree; `outside`: the
    target may also be in no session at all (the caller is an administrator or an agent
    outside of its session).

    `taken`: is a cgroup the tree's or a session's? Raises target_refused.
    """
    found = pidfd.info(fd)
    where = whereabouts.path_of(fd, found)
    if found is None:
        found = _info_from_proc(fd)
        where = proc.cgroup_path(found.pid)
    pid = found.pid
    if pid == 1:
        raise _refused("it is PID 1", pid)
    if found.ppid != identity.pid:
        raise _refused("it is not a child of the caller", pid)
    if identity.role is not Access.ADMIN and found.uid != identity.uid:
        raise _refused("it runs as another user", pid)
    if where is None:
        raise _refused("its cgroup can't be read", pid)
    if where not in own_cgroups and (not outside or taken(where)):
        raise _refused("it stands in a cgroup that is not the caller's", pid)
    ref = ProcessRef.of_pidfd(fd, pid)
    # Last: whatever was read above by number belonged to it if it lives now.
    if ref is None or not pidfd.is_alive(fd):
        raise _refused("the process has ended", pid)
    return Target(fd, ref)


def owner_of(identity: Identity) -> ProcessRef:
    """Whose call it will be. Raises no_identity for one that has ended."""
    owner = ProcessRef.of_pidfd(identity.pidfd, identity.pid)
    if owner is None:
        raise ProtocolError(
            Kind.NO_IDENTITY, "the calling process has ended", field="connection",
            value=identity.pid, remedy="keep it alive until the answer",
        )  # fmt: skip
    return owner


def exit_of(fd: int, pid: int) -> tuple[int | None, int | None] | None:
    """Exit code or signal of a process that ended, whether it was reaped or not; None if the
    kernel tells it to its parent alone."""
    status = pidfd.exit_status(fd)
    if status is None:
        status = proc.zombie_status(pid)
    if status is None:  # reaped in between
        status = pidfd.exit_status(fd)
    if status is None:
        return None
    return (None, status & 0x7F) if status & 0x7F else (status >> 8 & 0xFF, None)


def _info_from_proc(fd: int) -> PidInfo:
    pid = pidfd.pid_of(fd)
    status = proc.status(pid) if pid is not None else None
    if pid is None or status is None:
        raise _refused("the process has ended", pid)
    return PidInfo(pid, status.ppid, status.uid, 0)


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
    found = pidfd.info(target.fd)
    if found is not None:
        arrived = found.cgroup_id == leaf.id
    else:
        arrived = proc.cgroup_path(target.pid) == leaf_path
    if arrived and pidfd.is_alive(target.fd):
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
