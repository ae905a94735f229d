# SPDX-License-Identifier: Apache-2.0
"""Which cgroup a process stands in, asked of its pidfd instead of its number.

The kernel names the cgroup by its id (PIDFD_GET_INFO, Linux 6.13). A v2 cgroup keeps its
path for life and no other cgroup gets its id in this boot, so a path once read is known
for good, and who asks often never opens a file below /proc.
"""

from __future__ import annotations

from . import pidfd, proc
from .pidfd import PidInfo

__all__ = ["path_of"]

_MAX_KNOWN = 4096
_known: dict[int, str] = {}


def path_of(fd: int, found: PidInfo | None) -> str | None:
    """Path as in /proc/PID/cgroup of the process that `found` tells about.

    None if it was reaped, or if `found` is None because this kernel can't tell.
    """
    if found is None:
        return None
    path = _known.get(found.cgroup_id)
    if path is not None:
        return path
    path = proc.cgroup_path(found.pid)
    now = pidfd.info(fd)
    if path is None or now is None:
        return None
    # A removed cgroup, which only a zombie can be in, has a mark behind its path.
    if now.cgroup_id == found.cgroup_id and not path.endswith(" (deleted)"):
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[found.cgroup_id] = path
    return path
