# SPDX-License-Identifier: Apache-2.0
"""Where the tree is, and how much memory it may hand out.

--root names a cgroup (absolute, or relative to the cgroup2 mount). Without one: the
delegated scope under systemd, else /sys/fs/cgroup/agentcgroup, made by us as root.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..cgroupfs import files, proc, tree
from ..cgroupfs.handle import Cgroup
from ..errors import CgroupGoneError, ConfigError, InvalidValueError
from ..units import MIB
from . import systemd
from .layout import CONTROLLERS, policy_budget_bytes

__all__ = ["host_budget_bytes", "lock_root", "open_root"]

_LEAST_BUDGET_BYTES = 12 * MIB
_LEAST_RESERVE_BYTES = 512 * MIB


def open_root(wanted: str) -> tuple[Cgroup, bool]:
    """The tree's handle and whether we made it. ConfigError names root, value and remedy."""
    mount = proc.cgroup2_mount_point()
    if mount is None:
        raise ConfigError(
            "root", wanted or "/sys/fs/cgroup",
            "cgroup v2 is not mounted here: boot with systemd.unified_cgroup_hierarchy=1",
        )  # fmt: skip
    if not wanted and systemd.under_systemd():
        path = systemd.scope_root()
    else:
        path = _path(wanted or "agentcgroup", mount)
    made = not path.exists()
    try:
        if made:
            _make(path, mount)
        root = _usable_root(path)
    except InvalidValueError as error:
        raise ConfigError(error.field, error.value, error.remedy) from None
    except PermissionError:
        raise ConfigError("root", str(path), "run as root, or delegate this cgroup") from None
    except (CgroupGoneError, OSError) as error:
        raise ConfigError("root", str(path), f"use a cgroup that can be opened ({error})") from None
    return root, made


def _usable_root(path: Path) -> Cgroup:
    root = tree.find_root(path)
    try:
        missing = tree.enable_controllers(root, CONTROLLERS)
        if "memory" in missing:
            raise ConfigError("root", str(path), missing["memory"])
    except BaseException:
        root.close()
        raise
    return root


def lock_root(root: Cgroup) -> int:
    """One daemon a tree: a descriptor whose lock lasts as long as this process.

    Raises ConfigError when another daemon holds it.
    """
    fd = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(
            "root", root.path, "another daemon works on this tree: stop it, or name another root"
        ) from None
    return fd


def host_budget_bytes(root: Cgroup, reserve_bytes: int | None) -> int:
    """memory.max of the root if set, else MemTotal less the reserve."""
    limit = root.read_int(files.MEMORY_MAX) if root.try_read(files.MEMORY_MAX) else None
    total = _mem_total_bytes()
    if limit is not None and limit < total:
        budget = policy_budget_bytes(limit) or 0
        if budget < _LEAST_BUDGET_BYTES:
            raise ConfigError(
                "root", root.path, f"raise its memory.max ({limit} bytes); the tree needs 16M"
            )
        return budget
    reserve = max(total // 20, _LEAST_RESERVE_BYTES) if reserve_bytes is None else reserve_bytes
    if reserve >= total:
        raise ConfigError(
            "host.memory_reserve", reserve, f"keep less than the host's memory ({total} bytes)"
        )
    return total - reserve


def _path(wanted: str, mount: str) -> Path:
    """`/name` is below the mount unless it is a place in the file system already."""
    path = Path(wanted)
    if path.is_absolute() and (path.is_relative_to(mount) or Path(*path.parts[:2]).exists()):
        return path
    return Path(mount) / wanted.lstrip("/")


def _make(path: Path, mount: str) -> None:
    """mkdir below the nearest existing cgroup, with our controllers on all the way."""
    if not path.is_relative_to(mount):
        raise ConfigError("root", str(path), f"name a cgroup below {mount}")
    missing = []
    parent = path
    while not parent.exists():
        missing.append(parent.name)
        parent = parent.parent
    with tree.find_root(parent) as start:
        tree.enable_controllers(start, CONTROLLERS)
    while missing:
        parent = parent / missing.pop()
        parent.mkdir()
        if missing:
            with Cgroup.open(parent) as made:
                tree.enable_controllers(made, CONTROLLERS)


def _mem_total_bytes() -> int:
    total = proc.meminfo_bytes("MemTotal")
    if total is None:
        raise ConfigError("host", "/proc/meminfo", "mount /proc")
    return total
