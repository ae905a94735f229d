# SPDX-License-Identifier: Apache-2.0
"""Several BPF ring buffers behind one descriptor, fit for an event loop's `add_reader`.

`consume` never blocks. A thread that sleeps on the descriptor is woken by `close`.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from .libbpf import RingCallback, load_libbpf

__all__ = ["RingBuffers"]


class RingBuffers:
    """Raises OSError if the rings can't be mapped; after that reading can't fail."""

    def __init__(self, rings: Sequence[tuple[int, RingCallback]]) -> None:
        """`rings`: map descriptor and the receiver of its records."""
        if not rings:
            raise ValueError("no ring buffer to read")
        self._lib = load_libbpf()
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        # libbpf keeps only C pointers to these
        self._callbacks = [self._lib.ring_callback(receive) for _fd, receive in rings]
        self._manager = self._lib.check_pointer(
            self._lib.ring_buffer__new(rings[0][0], self._callbacks[0], None, None),
            "cannot map ring buffer",
        )
        try:
            for (map_fd, _receive), callback in zip(rings[1:], self._callbacks[1:], strict=True):
                added = self._lib.ring_buffer__add(self._manager, map_fd, callback, None)
                self._lib.check(added, "cannot map ring buffer")
            self._epoll.register(self._lib.ring_buffer__epoll_fd(self._manager), select.EPOLLIN)
            self._epoll.register(self._closing, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when there are records or the rings are closed."""
        return self._epoll.fileno()

    def consume(self) -> int:
        """Hand every record that is there to its receiver; how many there were."""
        if not self._manager:
            return 0
        return self._lib.check(
            self._lib.ring_buffer__consume(self._manager), "cannot read ring buffer"
        )

    def close(self) -> None:
        if not self._manager:
            return
        os.eventfd_write(self._closing, 1)
        manager, self._manager = self._manager, 0
        self._lib.ring_buffer__free(manager)

    def __del__(self) -> None:
        # not in close: a descriptor that is gone wakes nobody
        if hasattr(self, "_epoll"):
            self._epoll.close()
            os.close(self._closing)
