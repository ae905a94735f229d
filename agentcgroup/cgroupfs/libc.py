# SPDX-License-Identifier: Apache-2.0
"""The few C library calls that Python's os module lacks: fstatfs, inotify, mlockall, prctl."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = [
    "CGROUP2_MAGIC",
    "CGROUP_MAGIC",
    "IN_CLOEXEC",
    "IN_DELETE_SELF",
    "IN_IGNORED",
    "IN_MODIFY",
    "IN_NONBLOCK",
    "IN_Q_OVERFLOW",
    "filesystem_magic",
    "inotify_add_watch",
    "inotify_init1",
    "inotify_rm_watch",
    "lock_memory",
    "refuse_huge_pages",
]

# linux/magic.h
CGROUP_MAGIC: Final = 0x27E0EB
CGROUP2_MAGIC: Final = 0x63677270

# sys/inotify.h
IN_MODIFY: Final = 0x2
IN_DELETE_SELF: Final = 0x400
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_NONBLOCK: Final = os.O_NONBLOCK
IN_CLOEXEC: Final = os.O_CLOEXEC

# sys/mman.h
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4

# sys/prctl.h
_PR_SET_THP_DISABLE: Final = 41

_libc = ctypes.CDLL(None, use_errno=True)
# struct statfs begins with a long f_type and is 120 bytes on 64-bit.
_STATFS_BYTES = 256


def filesystem_magic(fd: int) -> int:
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    _checked(_libc.fstatfs(fd, buffer))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def inotify_init1(flags: int) -> int:
    return _checked(_libc.inotify_init1(flags))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)))


def inotify_rm_watch(fd: int, wd: int) -> None:
    _checked(_libc.inotify_rm_watch(fd, wd))


def lock_memory() -> None:
    """What this process has touched of its memory stays in RAM, code too; what it never
    touches costs nothing (mlockall(2), MCL_ONFAULT). Raises OSError."""
    _checked(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT))


def refuse_huge_pages() -> None:
    """For this process and those that it starts (prctl(2), PR_SET_THP_DISABLE). Raises OSError."""
    _checked(_libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
