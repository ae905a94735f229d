# SPDX-License-Identifier: Apache-2.0
"""A cgroup as a directory descriptor plus inode. Knows no policy.

Paths get recreated; a descriptor stays with the directory it was opened on, so what
is done through it can't hit a successor of the same name. On the hot path every
operation is open, one read or write, close, relative to the descriptor.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from ..errors import CgroupGoneError, InvalidValueError, NotSupportedError, printable
from . import files, parse

__all__ = ["Cgroup"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENODEV)
_CHUNK = 16384
# A control file of one record comes whole in the first read; cgroup.procs comes in
# pages. Anything shorter than half a page is complete without asking again.
_WHOLE = 2048
_FRESH = 0o755


class Cgroup:
    """One cgroup v2 directory. `path` serves messages only."""

    __slots__ = ("_link", "fd", "id", "name", "path")

    fd: int
    id: int
    name: str
    path: str

    def __init__(self, fd: int, path: str) -> None:
        """Take over directory descriptor `fd`; it is closed with the handle."""
        self.fd = fd
        self.path = path
        self.name = path.rpartition("/")[2]
        # Resolved from the descriptor, so it survives the death of a parent's handle.
        self._link = "../" + self.name
        try:
            self.id = os.fstat(fd).st_ino
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """CgroupGoneError if it is missing. `tree.find_root` checks more."""
        real = os.path.realpath(path)
        try:
            return cls(os.open(real, _DIRECTORY), real)
        except FileNotFoundError:
            raise CgroupGoneError(errno.ENOENT, "no such cgroup", real) from None

    def __repr__(self) -> str:
        return f"<Cgroup {self.path} id={self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    # --- directories

    def child(self, name: str) -> Self:
        _check_name(name)
        try:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        except FileNotFoundError:
            raise CgroupGoneError(errno.ENOENT, "no such cgroup", f"{self.path}/{name}") from None
        return type(self)(fd, f"{self.path}/{name}")

    def create(self, name: str, exist_ok: bool = False) -> Self:
        """mkdir and open. FileExistsError unless `exist_ok`."""
        _check_name(name)
        try:
            os.mkdir(name, _FRESH, dir_fd=self.fd)
        except FileExistsError:
            if not exist_ok:
                raise FileExistsError(
                    errno.EEXIST, "this cgroup exists already", f"{self.path}/{name}"
                ) from None
        except OSError as error:
            raise self._failure(error, f"cannot create cgroup '{name}'") from error
        return self.child(name)

    def children(self) -> list[str]:
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=self.fd)
        except OSError as error:
            raise self._failure(error, "cannot list children") from error
        try:
            with os.scandir(fd) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        finally:
            os.close(fd)

    def remove(self) -> bool:
        if not self.exists():
            return False
        try:
            os.rmdir(self._link, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise OSError(error.errno, f"cannot remove: {error.strerror}", self.path) from error
        return True

    def remove_tree(self) -> bool:
        for name in self.children():
            try:
                child = self.child(name)
            except CgroupGoneError:
                continue
            with child:
                child.remove_tree()
        return self.remove()

    def exists(self) -> bool:
        try:
            return os.stat(self._link, dir_fd=self.fd, follow_symlinks=False).st_ino == self.id
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise

    # --- control files

    def read(self, file: str) -> str:
        try:
            return self._read(file)
        except OSError as error:
            raise self._failure(error, f"cannot read {file}", file) from error

    def try_read(self, file: str) -> str | None:
        try:
            return self._read(file)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise self._failure(error, f"cannot read {file}", file) from error

    def read_int(self, file: str) -> int | None:
        return parse.int_or_max(self.read(file), file)

    def keyed(self, file: str) -> dict[str, int]:
        return parse.flat_keyed(self.read(file))

    def write(self, file: str, text: str) -> None:
        try:
            fd = os.open(file, _WRITE, dir_fd=self.fd)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise self._failure(error, f"cannot write {printable(text)} to {file}", file) from error

    def write_nonblocking(self, file: str, text: str) -> bool:
        try:
            fd = os.open(file, _WRITE | os.O_NONBLOCK, dir_fd=self.fd)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._failure(error, f"cannot write {printable(text)} to {file}", file) from error
        return True

    def open_file(self, file: str, flags: int) -> int:
        try:
            return os.open(file, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise self._failure(error, f"cannot open {file}", file) from error

    # --- processes

    def procs(self) -> list[int]:
        return [int(line) for line in self.read(files.CGROUP_PROCS).split()]

    def move(self, pid: int) -> None:
        self.write(files.CGROUP_PROCS, str(pid))

    def kill(self) -> None:
        self.write(files.CGROUP_KILL, "1")

    def freeze(self, on: bool) -> None:
        self.write(files.CGROUP_FREEZE, "1" if on else "0")

    def frozen(self) -> bool:
        return "frozen 1" in self.read(files.CGROUP_EVENTS)

    def populated(self) -> bool:
        return "populated 1" in self.read(files.CGROUP_EVENTS)

    # --- extended attributes

    def get_xattr(self, name: str) -> bytes | None:
        try:
            return os.getxattr(self.fd, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return None
            raise self._failure(error, f"cannot read attribute {name}") from error

    def set_xattr(self, name: str, value: bytes) -> None:
        try:
            os.setxattr(self.fd, name, value)
        except OSError as error:
            raise self._failure(error, f"cannot set attribute {name}") from error

    def remove_xattr(self, name: str) -> bool:
        try:
            os.removexattr(self.fd, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return False
            raise self._failure(error, f"cannot remove attribute {name}") from error
        return True

    def list_xattrs(self) -> list[str]:
        try:
            return sorted(os.listxattr(self.fd))
        except OSError as error:
            raise self._failure(error, "cannot list attributes") from error

    # ---

    def _read(self, file: str) -> str:
        fd = os.open(file, _READ, dir_fd=self.fd)
        try:
            data = chunk = os.read(fd, _CHUNK)
            while len(chunk) >= _WHOLE:
                chunk = os.read(fd, _CHUNK)
                data += chunk
        finally:
            os.close(fd)
        return data.decode(errors="replace").rstrip("\n")

    def _failure(self, error: OSError, what: str, file: str = "") -> OSError:
        """The error to raise instead of `error`: gone, lacking a file, or refused."""
        if error.errno in _GONE and not self.exists():
            return CgroupGoneError(error.errno, f"{what}: the cgroup is gone", self.path)
        if error.errno == errno.ENOENT and file:
            controller = file.partition(".")[0]
            remedy = (
                "this kernel lacks the file"
                if controller == "cgroup"
                else f"no such file; is '{controller}' in the parent's cgroup.subtree_control?"
            )
            return NotSupportedError(error.errno, f"{what}: {remedy}", self.path)
        return OSError(error.errno, f"{what}: {error.strerror}", self.path)


def _check_name(name: str) -> None:
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise InvalidValueError("cgroup name", name, "use one path component")
