# SPDX-License-Identifier: Apache-2.0
"""Finding the delegated root, handing controllers down, walking.

What the administrator has to put right is a DelegationError: field, value, remedy.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..errors import EXIT_BAD_CONFIG, CgroupGoneError, InvalidValueError
from . import files, parse, proc
from .api import CgroupLike
from .handle import Cgroup
from .libc import CGROUP2_MAGIC, CGROUP_MAGIC, filesystem_magic

__all__ = [
    "DelegationError",
    "ancestors",
    "enable_controllers",
    "find_root",
    "proc_path",
    "walk",
]

AnyCgroup = TypeVar("AnyCgroup", bound=CgroupLike)

_THREADED = frozenset({"cpu", "cpuset", "perf_event", "pids"})
_UNIFIED = "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1=all)"
_DELEGATE = (
    "use a cgroup delegated to this user (systemd: Delegate=yes on its unit or scope), "
    "or run as root"
)


class DelegationError(InvalidValueError):
    """This cgroup can't serve as the root of the tree."""

    exit_code = EXIT_BAD_CONFIG


def find_root(path: str | os.PathLike[str], required: Iterable[str] = ("memory",)) -> Cgroup:
    """Open `path` as the root of the tree: cgroup v2, ours to write, `required` available."""
    shown = os.fspath(path)
    try:
        cg = Cgroup.open(path)
    except CgroupGoneError:
        remedy = "there is no such directory; create it, or name an existing cgroup"
        raise DelegationError("root", shown, remedy) from None
    except NotADirectoryError:
        raise DelegationError("root", shown, "a cgroup is a directory") from None
    try:
        _check_filesystem(cg, shown)
        _check_delegated(cg, shown)
        _check_type(cg, shown)
        available = parse.words(cg.read(files.CGROUP_CONTROLLERS))
        for name in required:
            if name not in available:
                raise DelegationError("root", shown, _why_unavailable(name))
    except BaseException:
        cg.close()
        raise
    return cg


def enable_controllers(cg: CgroupLike, wanted: Iterable[str]) -> dict[str, str]:
    """Make `wanted` controllers appear in the children of `cg`; idempotent.

    The result holds a reason for every one that is missing. DelegationError if
    processes sit in `cg` itself (no internal processes); then nothing was changed.
    """
    enabled = parse.words(cg.read(files.CGROUP_SUBTREE_CONTROL))
    available = parse.words(cg.read(files.CGROUP_CONTROLLERS))
    missing: dict[str, str] = {}
    for name in sorted(set(wanted) - enabled, key=_domain_first):
        if name not in available:
            missing[name] = _why_unavailable(name)
            continue
        try:
            cg.write(files.CGROUP_SUBTREE_CONTROL, f"+{name}")
        except CgroupGoneError:
            raise
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise DelegationError("root", cg.path, _busy_remedy(cg, name)) from error
            missing[name] = f"the kernel refused it: {error.strerror}"
    return missing


def ancestors(cg: Cgroup) -> list[Cgroup]:
    """From the parent up to the mount's root. The caller closes them."""
    found: list[Cgroup] = []
    fd, path = cg.fd, cg.path
    try:
        while True:
            up = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            # Every cgroup2 mount is the same file system, so leaving it is the end; the
            # root directory is its own parent.
            if filesystem_magic(up) != CGROUP2_MAGIC or os.path.sameopenfile(up, fd):
                os.close(up)
                return found
            path = path.rpartition("/")[0]
            found.append(Cgroup(up, path))
            fd = up
    except BaseException:
        for handle in found:
            handle.close()
        raise


def walk(cg: AnyCgroup) -> Iterator[AnyCgroup]:
    """Descendants, parents before children, what vanishes meanwhile left out.

    A handle is closed when the walk has passed its subtree: `dup()` it to keep it.
    """
    for name in cg.children():
        try:
            child = cg.child(name)
        except CgroupGoneError:
            continue
        with child:
            yield child
            yield from walk(child)


def proc_path(cg: CgroupLike) -> str:
    """The path that /proc/PID/cgroup shows for processes in `cg`, from here."""
    mount_point = proc.cgroup2_mount_point()
    if mount_point is None or not f"{cg.path}/".startswith(f"{mount_point}/"):
        return cg.path
    return cg.path[len(mount_point) :] or "/"


def _check_filesystem(cg: Cgroup, shown: str) -> None:
    magic = filesystem_magic(cg.fd)
    if magic == CGROUP2_MAGIC:
        return
    if magic == CGROUP_MAGIC:
        raise DelegationError("root", shown, f"this is a cgroup v1 hierarchy; {_UNIFIED}")
    mount_point = proc.cgroup2_mount_point()
    where = f"cgroup v2 is mounted on {mount_point}" if mount_point else f"no cgroup v2; {_UNIFIED}"
    raise DelegationError("root", shown, f"this is not a cgroup file system; {where}")


def _check_delegated(cg: Cgroup, shown: str) -> None:
    for file in (".", files.CGROUP_PROCS, files.CGROUP_SUBTREE_CONTROL):
        if not os.access(file, os.W_OK, dir_fd=cg.fd, effective_ids=True):
            what = "the directory" if file == "." else file
            raise DelegationError("root", shown, f"{what} is not writable; {_DELEGATE}")


def _check_type(cg: Cgroup, shown: str) -> None:
    kind = cg.try_read(files.CGROUP_TYPE)
    if kind not in (None, "domain"):
        raise DelegationError("root", shown, f"its type is '{kind}'; only a domain will do")


def _domain_first(name: str) -> tuple[bool, str]:
    """A cgroup with processes takes a threaded controller, and turns into the root of a
    threaded subtree by that; the others it refuses, so they are asked first."""
    return name in _THREADED, name


def _why_unavailable(name: str) -> str:
    """/proc/cgroups: name, hierarchy (0 = v2 or unbound), cgroups, enabled."""
    for fields in (line.split() for line in proc.lines("/proc/cgroups")):
        if len(fields) == 4 and fields[0] == {"io": "blkio"}.get(name, name):
            if fields[3] == "0":
                return f"controller '{name}' is switched off (cgroup_disable= at boot)"
            if fields[1] != "0":
                return f"controller '{name}' is bound to a cgroup v1 hierarchy; {_UNIFIED}"
            break
    return (
        f"controller '{name}' is not in cgroup.controllers here: add it to "
        "cgroup.subtree_control of every cgroup above (systemd: Delegate=yes)"
    )


def _busy_remedy(cg: CgroupLike, name: str) -> str:
    pids = cg.procs()
    shown = ", ".join(str(pid) for pid in pids[:3]) + (", …" if len(pids) > 3 else "")
    holders = f"processes {shown} sit in it" if pids else "processes sit in it"
    return (
        f"controller '{name}' cannot be enabled: {holders}; "
        "move them to a child cgroup, or name an empty one"
    )
