# SPDX-License-Identifier: Apache-2.0
"""Being told instead of asking: inotify on events files, PSI triggers.

Both give a descriptor for an event loop that only knows "readable".
Source: kernel Documentation/admin-guide/cgroup-v2.rst and accounting/psi.rst.
"""

from __future__ import annotations

import os
import select
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from . import files, libc
from .api import CgroupLike

__all__ = ["Change", "PsiTrigger", "Watcher", "psi_trigger"]

_EVENT = struct.Struct("iIII")
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """`file` of the cgroup changed; `gone` means it was removed and is no longer watched."""

    cgroup_id: int
    file: str
    gone: bool = False


class Watcher:
    """Watches control files that the kernel announces (*.events, cgroup.events).

    Add `fileno()` to a loop and call `read()` when it is readable. Several changes of
    one file between two reads are one Change: read the file for what is true now.
    """

    def __init__(self) -> None:
        self._fd = libc.inotify_init1(libc.IN_NONBLOCK | libc.IN_CLOEXEC)
        self._watched: dict[int, tuple[int, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._fd

    def add(self, cg: CgroupLike, file: str) -> None:
        """CgroupGoneError or NotSupportedError as for reading the file. Idempotent."""
        fd = cg.open_file(file, os.O_RDONLY)
        try:
            # Through the descriptor, so that a recreated path is not taken for this one.
            wd = libc.inotify_add_watch(
                self._fd, f"/proc/self/fd/{fd}", libc.IN_MODIFY | libc.IN_DELETE_SELF
            )
        finally:
            os.close(fd)
        self._watched[wd] = (cg.id, file)

    def remove(self, cgroup_id: int) -> None:
        """Stop watching every file of this cgroup; unknown ids are fine."""
        for wd, (owner, _file) in list(self._watched.items()):
            if owner == cgroup_id:
                del self._watched[wd]
                try:
                    libc.inotify_rm_watch(self._fd, wd)
                except OSError:
                    # The kernel dropped it with the inode.
                    continue

    def read(self) -> list[Change]:
        """What changed since the last call, without waiting, oldest first."""
        changes: dict[Change, None] = {}
        while True:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return list(changes)
            offset = 0
            while offset < len(data):
                wd, mask, _cookie, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                for change in self._changes(wd, mask):
                    changes[change] = None

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._watched.clear()

    def _changes(self, wd: int, mask: int) -> list[Change]:
        if mask & libc.IN_Q_OVERFLOW:
            # Something was lost: everything may have changed.
            return [Change(owner, file) for owner, file in self._watched.values()]
        if mask & (libc.IN_IGNORED | libc.IN_DELETE_SELF):
            watched = self._watched.pop(wd, None)
            return [Change(*watched, gone=True)] if watched else []
        watched = self._watched.get(wd)
        return [Change(*watched)] if watched else []


def psi_trigger(
    cg: CgroupLike,
    kind: Literal["some", "full"],
    stall_us: int,
    window_us: int,
    file: str = files.MEMORY_PRESSURE,
) -> int:
    """A descriptor that polls POLLPRI at most once a window after `stall_us` of stall in one.

    The kernel takes windows of 500 ms to 10 s, without CAP_SYS_RESOURCE only multiples
    of 2 s, and refuses others with EINVAL.
    """
    fd = cg.open_file(file, os.O_RDWR | os.O_NONBLOCK)
    text = f"{kind} {stall_us} {window_us}"
    try:
        os.write(fd, text.encode() + b"\0")
    except OSError as error:
        os.close(fd)
        raise OSError(
            error.errno, f"cannot write '{text}' to {file}: {error.strerror}", cg.path
        ) from error
    return fd


class PsiTrigger:
    """A PSI trigger for loops that can't wait for POLLPRI, such as asyncio's.

    `fileno()` is readable when the trigger fired: being readable *is* the event, for
    the kernel forgets it as soon as anything polls it, the loop included. The handler
    calls `acknowledge()`.
    """

    def __init__(
        self, cg: CgroupLike, kind: Literal["some", "full"], stall_us: int, window_us: int
    ) -> None:
        self._fd = psi_trigger(cg, kind, stall_us, window_us)
        self._epoll = select.epoll()
        self._epoll.register(self._fd, select.EPOLLPRI)
        self.cgroup_id = cg.id

    def fileno(self) -> int:
        return self._epoll.fileno()

    def acknowledge(self) -> bool:
        """False once the cgroup is gone: then the descriptor is silent, close it."""
        for fd, mask in self._epoll.poll(0):
            if mask & (select.EPOLLERR | select.EPOLLHUP):
                self._epoll.unregister(fd)
                return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            self._epoll.close()
            fd, self._fd = self._fd, -1
            os.close(fd)
