# SPDX-License-Identifier: Apache-2.0
"""Is a process the outside agent of a session, or one of its descendants?

A process can leave the line of its ancestors (its parent ends) but never enter
another's: a new parent is always a subreaper above it, or init.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["outside_session_of"]

# Longer lines than this are nobody's shell; the walk must not be a way to keep us busy.
_MAX_DEPTH = 64
# Fields of proc(5) `stat` counted from the state, which follows the name.
_PPID = 4 - 3
_START_TIME = 22 - 3


def outside_session_of(
    pid: int, start_time: int, bound: Callable[[int, int], str | None]
) -> str | None:
    """The session of the nearest bound process at or above `pid`.

    `bound(pid, start_time)` names the session whose agent is exactly that process.
    """
    for _ in range(_MAX_DEPTH):
        session = bound(pid, start_time)
        if session is not None:
            return session
        parent = _parent_of(pid, start_time)
        if parent is None:
            return None
        pid, start_time = parent
    return None


def _parent_of(pid: int, start_time: int) -> tuple[int, int] | None:
    """Number and start time of the parent, checked against reuse of either number."""
    before = _stat(pid)
    if before is None or before[1] != start_time or before[0] <= 0:
        return None
    parent = _stat(before[0])
    # Still the same child under the same number: then that number was the parent's while
    # it was read, for a process that lost its parent never gets that number back.
    if parent is None or _stat(pid) != before:
        return None
    return before[0], parent[1]


def _stat(pid: int) -> tuple[int, int] | None:
    """(ppid, start time in clock ticks), None if the process is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name may hold blanks and parentheses: the last one ends it.
    fields = data[data.rfind(b")") + 1 :].split()
    return int(fields[_PPID]), int(fields[_START_TIME])
