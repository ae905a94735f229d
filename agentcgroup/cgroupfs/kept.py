# SPDX-License-Identifier: Apache-2.0
"""Control files that are read again and again, through descriptors that stay open.

A pread at offset 0 makes the kernel write the text anew, for a third of the system calls of
opening, reading and closing. Source: kernel Documentation/filesystems/seq_file.rst.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from .api import CgroupLike

__all__ = ["KeptFiles"]

_SIZE = 1 << 14
# The kernel hands out whole records: less than a page of them is all there is.
_WHOLE = 3584
_MISSING = -1
_FULL = (errno.EMFILE, errno.ENFILE)
_GONE = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


class KeptFiles:
    """`with KeptFiles(cgroup) as kept:`. Texts are those of a plain read.

    A file that is missing at the first read is taken as missing for good. When there are no
    descriptors left, files are opened for each read. `owned`: closes the cgroup's handle, too.
    """

    def __init__(self, cgroup: CgroupLike, *, owned: bool = False) -> None:
        self._cgroup = cgroup
        self._owned = owned
        self._fds: dict[str, int] = {}

    def try_read(self, file: str) -> str | None:
        """Without the final newline; None if the file or the cgroup is not there."""
        fd = self._fds.get(file)
        if fd is None:
            try:
                fd = self._open(file)
            except OSError as error:
                if error.errno in _FULL:
                    return self._without_keeping(file)
                raise
        if fd == _MISSING:
            return None
        try:
            data = chunk = os.pread(fd, _SIZE, 0)
            while len(chunk) >= _WHOLE:
                chunk = os.pread(fd, _SIZE, len(data))
                data += chunk
            return data.decode(errors="replace").rstrip("\n")
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _without_keeping(self, file: str) -> str | None:
        """Gives its descriptors back first: somebody needs them, this read does."""
        self._drop()
        return self._cgroup.try_read(file)

    def _open(self, file: str) -> int:
        try:
            fd = self._cgroup.open_file(file, os.O_RDONLY)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            fd = _MISSING
        self._fds[file] = fd
        return fd

    def close(self) -> None:
        self._drop()
        if self._owned:
            self._cgroup.close()

    def _drop(self) -> None:
        while self._fds:
            _, fd = self._fds.popitem()
            if fd != _MISSING:
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
