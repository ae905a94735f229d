# SPDX-License-Identifier: Apache-2.0
"""A private cgroup for one replay: made, limited, and always removed again."""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Self

from ..cgroupfs import files
from ..cgroupfs.handle import Cgroup
from ..errors import (
    AgentCgroupError,
    CgroupGoneError,
    InvalidValueError,
    NotPermittedError,
    NotSupportedError,
)

__all__ = ["PrivateTree", "open_root"]

_REMOVE_S = 10.0


def open_root(path: str) -> Cgroup:
    """The cgroup below which private trees are made, with the controllers passed on."""
    try:
        root = Cgroup.open(path)
    except OSError as problem:
        raise InvalidValueError("--root", path, f"name a cgroup v2 directory ({problem})") from None
    if root.try_read(files.CGROUP_CONTROLLERS) is None:
        raise NotSupportedError(
            f"cannot use {path}: it is not cgroup v2. Run this on a host with cgroup v2, or in"
            " the guest: sandboxes/guest/run -- agentcgroup trace …"
        )
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise NotPermittedError(f"cannot make cgroups in {path}: run as root")
    if "memory" not in root.read(files.CGROUP_CONTROLLERS).split():
        raise NotSupportedError(
            f"cannot limit memory below {path}: its cgroup.controllers lacks memory"
        )
    for controller in ("memory", "cpu", "pids"):
        pass_on(root, controller, required=controller == "memory")
    return root


def pass_on(cgroup: Cgroup, controller: str, *, required: bool) -> None:
    """Enable a controller for the children; one that is not there is no fault."""
    if controller in cgroup.read(files.CGROUP_SUBTREE_CONTROL).split():
        return
    try:
        cgroup.write(files.CGROUP_SUBTREE_CONTROL, f"+{controller}")
    except OSError as problem:
        if required:
            raise NotSupportedError(
                f"cannot enable {controller} below {cgroup.path}: {problem}. Choose --root where"
                " no process sits, or a delegated cgroup"
            ) from None


class PrivateTree:
    """`<root>/<name>` without swap; leaving it kills and removes all below.

    `total_bytes` becomes memory.max; None leaves it unlimited.
    """

    def __init__(self, root: Cgroup, name: str, total_bytes: int | None) -> None:
        self._root = root
        self._name = name
        self._total_bytes = total_bytes
        self.cgroup: Cgroup

    def __enter__(self) -> Self:
        self.cgroup = self._root.create(self._name)
        try:
            if self._total_bytes is not None:
                self.cgroup.write(files.MEMORY_MAX, str(self._total_bytes))
            self._no_swap(self.cgroup)
        except BaseException:
            self.cgroup.remove()
            self.cgroup.close()
            raise
        return self

    def session(self, name: str, memory_max_bytes: int | None = None) -> Cgroup:
        """A child for one session."""
        for controller in ("memory", "cpu", "pids"):
            pass_on(self.cgroup, controller, required=controller == "memory")
        child = self.cgroup.create(name)
        self._no_swap(child)
        if memory_max_bytes is not None:
            child.write(files.MEMORY_MAX, str(memory_max_bytes))
        return child

    def kill(self) -> None:
        with contextlib.suppress(CgroupGoneError):
            self.cgroup.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        deadline_s = time.monotonic() + _REMOVE_S
        try:
            while True:
                self.kill()
                try:
                    self.cgroup.remove_tree()
                    return
                except OSError as problem:
                    if time.monotonic() > deadline_s:
                        raise AgentCgroupError(
                            f"cannot remove {self.cgroup.path}: {problem}; remove it by hand"
                        ) from problem
                time.sleep(0.02)
        finally:
            self.cgroup.close()

    @staticmethod
    def _no_swap(cgroup: Cgroup) -> None:
        # A kernel without swap has no such file, and nothing to forbid.
        with contextlib.suppress(NotSupportedError):
            cgroup.write(files.MEMORY_SWAP_MAX, "0")
