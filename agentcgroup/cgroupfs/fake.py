# SPDX-License-Identifier: Apache-2.0
"""FakeCgroup: the interface of `api.CgroupLike` over a hierarchy in memory.

It passes the contract tests that the real handle passes in a guest, so what is built
on it can be tested without privileges. Processes are made and driven through
`FakeKernel` (spawn, charge, run, exit):

    kernel = FakeKernel()
    root = FakeCgroup.delegated(kernel)
    pid = kernel.spawn(root.create("call").node, memory_bytes=1 << 20)
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from ..errors import CgroupGoneError, printable
from . import fake_files, files, parse
from .fake_kernel import FakeKernel, Node
from .fake_values import CONTROLLERS, refusal
from .handle import check_name, explain

__all__ = ["FakeCgroup", "FakeKernel"]


class FakeCgroup:
    """A handle on one `node`. Several handles may share a node."""

    def __init__(self, kernel: FakeKernel, node: Node, path: str) -> None:
        self.kernel = kernel
        self.node = node
        self.path = path
        self.name = path.rpartition("/")[2]
        self._closed = False

    @classmethod
    def root(cls, kernel: FakeKernel) -> Self:
        """The root of the hierarchy, which has neither limits nor events."""
        return cls(kernel, kernel.root, "/sys/fs/cgroup")

    @classmethod
    def delegated(cls, kernel: FakeKernel, name: str = "agentcgroup") -> Self:
        """A cgroup under the root with every controller available."""
        root = cls.root(kernel)
        root.write(files.CGROUP_SUBTREE_CONTROL, " ".join(f"+{name}" for name in CONTROLLERS))
        return root.create(name)

    @property
    def id(self) -> int:
        return self.node.id

    @property
    def fd(self) -> int:
        return -1

    def __repr__(self) -> str:
        return f"<FakeCgroup {self.path} id={self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def dup(self) -> Self:
        self._check_open()
        return type(self)(self.kernel, self.node, self.path)

    def close(self) -> None:
        self._closed = True

    # --- directories

    def child(self, name: str) -> Self:
        check_name(name)
        self._check_open()
        node = self.node.children.get(name)
        path = f"{self.path}/{name}"
        if node is None:
            raise CgroupGoneError(errno.ENOENT, "no such cgroup", path)
        return type(self)(self.kernel, node, path)

    def create(self, name: str, exist_ok: bool = False) -> Self:
        check_name(name)
        self._check_open()
        if name in self.node.children:
            if not exist_ok:
                raise FileExistsError(
                    errno.EEXIST, "this cgroup exists already", f"{self.path}/{name}"
                )
            return self.child(name)
        try:
            self._check_linked()
            self._check_room()
        except OSError as error:
            raise explain(self, error, f"cannot create cgroup '{name}'") from error
        self.kernel.add_node(name, self.node)
        return self.child(name)

    def children(self) -> list[str]:
        self._check_open()
        return sorted(self.node.children)

    def remove(self) -> bool:
        self._check_open()
        if not self.node.linked:
            return False
        try:
            self.kernel.unlink(self.node)
        except OSError as error:
            raise OSError(error.errno, f"cannot remove: {error.strerror}", self.path) from error
        return True

    def remove_tree(self) -> bool:
        for name in self.children():
            self.child(name).remove_tree()
        return self.remove()

    def exists(self) -> bool:
        self._check_open()
        return self.node.linked

    # --- control files

    def read(self, file: str) -> str:
        try:
            self._check_file(file)
            return fake_files.read(self.node, file)
        except OSError as error:
            raise explain(self, error, f"cannot read {file}", file) from error

    def try_read(self, file: str) -> str | None:
        self._check_open()
        if not self.node.linked or not fake_files.exists(self.node, file):
            return None
        return self.read(file)

    def read_int(self, file: str) -> int | None:
        return parse.int_or_max(self.read(file), file)

    def keyed(self, file: str) -> dict[str, int]:
        return parse.flat_keyed(self.read(file))

    def write(self, file: str, text: str) -> None:
        try:
            self._check_file(file)
            fake_files.write(self.kernel, self.node, file, text)
        except OSError as error:
            raise explain(self, error, f"cannot write {printable(text)} to {file}", file) from error

    def write_nonblocking(self, file: str, text: str) -> bool:
        try:
            self.write(file, text)
        except BlockingIOError:
            return False
        return True

    def open_file(self, file: str, flags: int) -> int:
        """A real descriptor with the text of this moment; what is written to it is lost."""
        text = self.read(file)
        fd = os.memfd_create(file, os.MFD_CLOEXEC)
        os.write(fd, f"{text}\n".encode())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    # --- processes

    def procs(self) -> list[int]:
        return [int(word) for word in self.read(files.CGROUP_PROCS).split()]

    def move(self, pid: int) -> None:
        self.write(files.CGROUP_PROCS, str(pid))

    def kill(self) -> None:
        self.write(files.CGROUP_KILL, "1")

    def freeze(self, on: bool) -> None:
        self.write(files.CGROUP_FREEZE, "1" if on else "0")

    def frozen(self) -> bool:
        return self.keyed(files.CGROUP_EVENTS)["frozen"] == 1

    def populated(self) -> bool:
        return self.keyed(files.CGROUP_EVENTS)["populated"] == 1

    # --- extended attributes

    def get_xattr(self, name: str) -> bytes | None:
        self._check_xattr(name)
        return self.node.xattrs.get(name)

    def set_xattr(self, name: str, value: bytes) -> None:
        self._check_xattr(name)
        self.node.xattrs[name] = bytes(value)

    def remove_xattr(self, name: str) -> bool:
        self._check_xattr(name)
        return self.node.xattrs.pop(name, None) is not None

    def list_xattrs(self) -> list[str]:
        self._check_open()
        return sorted(self.node.xattrs)

    # ---

    def _check_open(self) -> None:
        if self._closed:
            raise refusal(errno.EBADF)

    def _check_linked(self) -> None:
        if not self.node.linked:
            raise refusal(errno.ENOENT)

    def _check_file(self, file: str) -> None:
        self._check_open()
        self._check_linked()
        if not fake_files.exists(self.node, file):
            raise refusal(errno.ENOENT)

    def _check_room(self) -> None:
        """cgroup.max.depth and cgroup.max.descendants of every ancestor."""
        for depth, node in enumerate(self.node.ancestors(), start=1):
            descendants = sum(1 for _ in node.subtree()) - 1
            for file, used in (
                (files.CGROUP_MAX_DEPTH, depth),
                (files.CGROUP_MAX_DESCENDANTS, descendants + 1),
            ):
                limit = node.setting(file)
                if limit != files.MAX and used > int(limit):
                    raise refusal(errno.EAGAIN)

    def _check_xattr(self, name: str) -> None:
        self._check_open()
        if not name.startswith(("user.", "trusted.", "security.")):
            raise explain(self, refusal(errno.ENOTSUP), f"cannot use attribute {name}")
