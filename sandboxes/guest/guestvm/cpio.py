# SPDX-License-Identifier: Apache-2.0
"""A writer of initramfs archives (cpio "newc", Documentation/driver-api/early-userspace)."""

from __future__ import annotations

import stat


class Cpio:
    """Collects entries; `finish` returns the archive. Needs no root for device nodes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def directory(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def console(self, name: str) -> None:
        """The console device: the kernel opens it for init before any file system is mounted."""
        self._add(name, stat.S_IFCHR | 0o600, device=(5, 1))

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0)
        return bytes(self._data)

    def _add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (
            self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0,
        )  # fmt: skip
        self._data += b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._pad()
        self._data += data
        self._pad()

    def _pad(self) -> None:
        self._data += b"\0" * (-len(self._data) % 4)
