# SPDX-License-Identifier: Apache-2.0
"""pidfds: a process by descriptor, which no reuse of its number can redirect.

Source: pidfd_open(2), unix(7), kernel fs/pidfs.c (6.9+, where a pidfd has an inode of
its own that no other process will ever get in this boot).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import signal
import socket
import struct
from typing import NamedTuple

__all__ = [
    "PeerCredentials",
    "PidInfo",
    "exit_status",
    "info",
    "is_alive",
    "open_pidfd",
    "peer_credentials",
    "peer_pidfd",
    "pid_of",
    "pidfd_id",
    "send_signal",
]

_SO_PEERPIDFD = 77
_UCRED = struct.Struct("iII")
# linux/pidfd.h (6.13): mask, cgroupid, pid, tgid, ppid, ruid, then what nobody asks here.
_PIDFD_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("=QQIIIIIIIIIIIi")
_INFO_PID, _INFO_CREDS, _INFO_CGROUP_ID, _INFO_EXIT = 1, 2, 4, 8
_INFO_WANTED = _INFO_PID | _INFO_CREDS | _INFO_CGROUP_ID
_INFO_REQUEST = _INFO.pack(_INFO_WANTED, *[0] * 13)


class PeerCredentials(NamedTuple):
    pid: int
    uid: int
    gid: int


class PidInfo(NamedTuple):
    """`cgroup_id` is the v2 cgroup's inode, `uid` the real one."""

    pid: int
    ppid: int
    uid: int
    cgroup_id: int


def info(fd: int) -> PidInfo | None:
    """All of it at one moment, asked of the process and not of its number.

    None if it was reaped, or this kernel can't tell (PIDFD_GET_INFO, Linux 6.13): then /proc
    is there, with a look at `is_alive` after reading.
    """
    try:
        raw = fcntl.ioctl(fd, _PIDFD_GET_INFO, _INFO_REQUEST)
    except OSError:
        return None
    mask, cgroup_id, pid, _, ppid, uid, *_ = _INFO.unpack(raw)
    if mask & _INFO_WANTED != _INFO_WANTED:
        return None
    return PidInfo(pid, ppid, uid, cgroup_id)


def exit_status(fd: int) -> int | None:
    """As waitpid(2) has it, of a process that was reaped, whoever did; else None, and so on
    kernels before 6.15 (PIDFD_INFO_EXIT)."""
    try:
        raw = fcntl.ioctl(fd, _PIDFD_GET_INFO, _INFO.pack(_INFO_EXIT, *[0] * 13))
    except OSError:
        return None
    mask, *_, status = _INFO.unpack(raw)
    return int(status) if mask & _INFO_EXIT else None


def open_pidfd(pid: int) -> int:
    """ProcessLookupError if there is no such process. CLOEXEC; the caller closes it."""
    return os.pidfd_open(pid)


def pid_of(fd: int) -> int | None:
    """The number in this pid namespace; None if the process was reaped or is not visible.

    ValueError if `fd` is no pidfd.
    """
    pid = _fdinfo_pid(fd)
    if pid is None:
        raise ValueError(f"descriptor {fd} is not a pidfd")
    return pid if pid > 0 else None


def is_alive(fd: int) -> bool:
    """A pidfd becomes readable when the process ends (a zombie has ended)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not poll.poll(0)


def send_signal(fd: int, sig: int) -> bool:
    """False if the process has ended."""
    try:
        signal.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return False
    return True


def pidfd_id(fd: int) -> int | None:
    """A number for the process that is unique in this boot; None without pidfs."""
    found = os.fstat(fd)
    return None if found.st_dev == _anonymous_device() else found.st_ino


def peer_pidfd(sock: socket.socket) -> int | None:
    """pidfd of who connected; None if the kernel lacks SO_PEERPIDFD or the peer was reaped.

    The kernel makes it close-on-exec.
    """
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
    except OSError as error:
        # ENODATA and EINVAL: no peer; ESRCH: reaped on a kernel without pidfs.
        if error.errno in (errno.ENOPROTOOPT, errno.ESRCH, errno.ENODATA, errno.EINVAL):
            return None
        raise
    fd: int = struct.unpack("i", raw)[0]
    return fd


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """SO_PEERCRED: as of connect(); the pid may be reused, the ids may have changed."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return PeerCredentials(*_UCRED.unpack(raw))


@functools.cache
def _anonymous_device() -> int:
    """Device of anon_inodefs, where a pidfd lives (all with one inode) if there is no pidfs.

    The link text can't tell: pidfs kept "anon_inode:[pidfd]".
    """
    fd = os.eventfd(0)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _fdinfo_pid(fd: int) -> int | None:
    try:
        info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = b"\n" + os.read(info, 4096)
    except OSError:
        return None
    finally:
        os.close(info)
    _, found, rest = text.partition(b"\nPid:")
    return int(rest.partition(b"\n")[0]) if found else None
