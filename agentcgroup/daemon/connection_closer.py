# SPDX-License-Identifier: Apache-2.0
"""Closes what strangers handed us, where it may take for ever: in a thread of its own.

close() of a FUSE file waits for its server, of a lingering TCP socket for its peer, and
a closed Unix socket drops the descriptors nobody had read yet. Only a pidfd is known to
close at once. Nothing here asks the file anything (fstat of a FUSE file waits as well).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import socket
import struct
import termios
import threading
from collections import Counter

__all__ = ["ForeignCloser", "received_pidfd"]

# More threads only help against an owner that blocks several: one is kept for each.
_MAX_THREADS = 4


def received_pidfd(fd: int) -> bool:
    """By the link's text, which the kernel makes up and no file name can look like. The file
    itself is not asked: reading fdinfo of an epoll file may wait for a FUSE server."""
    try:
        text = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  (once per tool call)
    except OSError:
        return False
    return text.startswith(("anon_inode:[pidfd]", "pidfd:["))


class ForeignCloser:
    """`pending(owner)` tells how many of an owner's descriptors are not closed yet."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: Counter[str] = Counter()
        self._threads = 0

    def pending(self, owner: str) -> int:
        return self._pending[owner] if self._pending else 0

    def total(self) -> int:
        with self._lock:
            return self._pending.total()

    def close_received(self, fd: int, owner: str) -> None:
        if received_pidfd(fd):
            os.close(fd)
        else:
            self._close_aside(fd, owner)

    def _close_aside(self, fd: int, owner: str) -> None:
        with self._lock:
            self._pending[owner] += 1
            start = self._threads < min(_MAX_THREADS, self._pending.total())
            self._threads += start
        self._queue.put((owner, fd))
        if start:
            threading.Thread(target=self._run, name="closer", daemon=True).start()

    def close_socket(self, sock: socket.socket, owner: str) -> None:
        """Inline unless unread bytes remain, for those may carry descriptors."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        unread = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))[0]
        if unread:
            self._close_aside(sock.detach(), owner)
        else:
            sock.close()

    def stop(self) -> None:
        """Let idle threads end; one that is stuck ends with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            owner, fd = item
            with contextlib.suppress(OSError):
                os.close(fd)
            with self._lock:
                self._pending[owner] -= 1
                if not self._pending[owner]:
                    del self._pending[owner]
