# SPDX-License-Identifier: Apache-2.0
"""The face of a cgroup, satisfied by `handle.Cgroup` and by `fake.FakeCgroup`.

Both run the same contract tests. Methods raise CgroupGoneError when the directory was
removed, NotSupportedError when it lives but lacks the file, and OSError naming file
and value when the kernel refuses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

__all__ = ["CgroupLike"]


class CgroupLike(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str:
        """For messages only: whoever wants to act uses the handle."""
        ...

    @property
    def id(self) -> int:
        """Inode number of the directory, the cgroup id that BPF sees."""
        ...

    @property
    def fd(self) -> int:
        """Directory descriptor; -1 in the fake."""
        ...

    def child(self, name: str) -> Self: ...
    def create(self, name: str, exist_ok: bool = False) -> Self: ...
    def children(self) -> list[str]:
        """Sorted names; empty for a gone cgroup."""
        ...

    def remove(self) -> bool:
        """rmdir; False if it was gone already. EBUSY passes."""
        ...

    def remove_tree(self) -> bool:
        """rmdir of the empty descendants bottom-up, then of itself. Kills nothing."""
        ...

    def read(self, file: str) -> str:
        """Text without the final newline."""
        ...

    def try_read(self, file: str) -> str | None:
        """As `read`; None if file or directory is missing."""
        ...

    def read_int(self, file: str) -> int | None:
        """None for "max"."""
        ...

    def write(self, file: str, text: str) -> None: ...
    def write_nonblocking(self, file: str, text: str) -> bool:
        """False if the kernel would have had to wait. Older kernels wait all the same."""
        ...

    def keyed(self, file: str) -> dict[str, int]: ...
    def procs(self) -> list[int]:
        """Process ids in this cgroup, without descendants, 0 for a foreign pid namespace."""
        ...

    def move(self, pid: int) -> None:
        """Move the process (all threads) here. ProcessLookupError if it ended."""
        ...

    def kill(self) -> None:
        """SIGKILL to the whole subtree, frozen ones included."""
        ...

    def freeze(self, on: bool) -> None: ...
    def frozen(self) -> bool:
        """Every process of the subtree has really stopped."""
        ...

    def populated(self) -> bool:
        """The subtree has a live process."""
        ...

    def exists(self) -> bool:
        """The same inode is still linked; never raises for a gone one."""
        ...

    def get_xattr(self, name: str) -> bytes | None: ...
    def set_xattr(self, name: str, value: bytes) -> None: ...
    def remove_xattr(self, name: str) -> bool:
        """False if there was none."""
        ...

    def list_xattrs(self) -> Sequence[str]: ...
    def open_file(self, file: str, flags: int) -> int:
        """A descriptor to keep (memory.peak, PSI triggers); the caller closes it."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
