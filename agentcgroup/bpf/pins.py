# SPDX-License-Identifier: Apache-2.0
"""Maps and links that outlive the process which made them: pins in the BPF file system.

A directory per owner, in it one per set of pins; a set is named after what is in it, so that
a successor knows whether it can go on with it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ..errors import NotSupportedError
from .libbpf import load_libbpf

__all__ = ["Pins", "close_all"]

BPFFS = Path("/sys/fs/bpf")
_MOUNTS = Path("/proc/self/mounts")


class Pins:
    """One owner's sets."""

    def __init__(self, directory: Path) -> None:
        """Use `open`."""
        self.directory = directory
        self._lib = load_libbpf()

    @classmethod
    def open(cls, owner: str) -> Pins:
        """Mounts the file system where it is missing. Raises NotSupportedError."""
        directory = BPFFS / "agentcgroup" / owner
        try:
            if not _is_mounted():
                load_libbpf().mount_bpffs(str(BPFFS))
            directory.parent.mkdir(mode=0o700, exist_ok=True)
            found = directory.parent.stat()
        except OSError as error:
            if isinstance(error, NotSupportedError):
                raise
            raise NotSupportedError(f"no pins in {BPFFS}: {error.strerror or error}") from error
        # Where everybody may make directories, ours could be somebody else's.
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NotSupportedError(f"no pins in {BPFFS}: {directory.parent} is not root's alone")
        return cls(directory)

    def labels(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in self.directory.iterdir())
        return []

    def keep(self, label: str, fds: Mapping[str, int]) -> None:
        """Pin these, in this order, all or none. Raises OSError."""
        directory = self.directory / label
        directory.mkdir(mode=0o700, parents=True)
        try:
            for name, fd in fds.items():
                path = str(directory / name).encode()
                self._lib.check(self._lib.bpf_obj_pin(fd, path), f"cannot pin {name}")
        except BaseException:
            self.forget(label)
            raise

    def find(self, label: str) -> dict[str, int]:
        """Descriptors of what is pinned in this set, by name; empty if there is no such set."""
        fds: dict[str, int] = {}
        try:
            for path in (self.directory / label).iterdir():
                got = self._lib.bpf_obj_get(str(path).encode())
                fds[path.name] = self._lib.check(got, f"cannot open {path}")
        except FileNotFoundError:
            close_all(fds)
            return {}
        except BaseException:
            close_all(fds)
            raise
        return fds

    def forget(self, label: str) -> None:
        """What is pinned there ends, unless somebody holds a descriptor of it."""
        directory = self.directory / label
        with contextlib.suppress(OSError):
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
            self.directory.rmdir()


def close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
    fds.clear()


def _is_mounted() -> bool:
    lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.split()[1:3] == [str(BPFFS), "bpf"] for line in lines)
