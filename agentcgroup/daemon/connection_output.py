# SPDX-License-Identifier: Apache-2.0
"""Answers and events of one connection on their way out, bounded.

An answer that does not fit ends the connection: who asks must read. An event that does
not fit is dropped and counted; a `dropped` record stands where the gap is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from ..clock import MonotonicClock
from ..protocol import codec
from .server_limits import Account
from .server_shared import Shared

__all__ = ["SEND_FLAGS", "Output"]

# Clients' sockets are never put into non-blocking mode: each operation says it itself.
SEND_FLAGS = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_clock = MonotonicClock()


class Output:
    """`failed` is called (once or more) when the peer is gone or does not read."""

    __slots__ = (
        "_account", "_buffer", "_dropped_events", "_emptied", "_failed", "_shared", "_sock",
        "_watching",
    )  # fmt: skip

    def __init__(
        self, shared: Shared, sock: socket.socket, account: Account, *,
        emptied: Callable[[], None], failed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._sock = sock
        self._account = account
        self._buffer = bytearray()
        self._dropped_events = 0
        self._watching = False
        self._emptied = emptied
        self._failed = failed

    def __len__(self) -> int:
        return len(self._buffer)

    def send(self, line: bytes) -> None:
        rest = line if self._buffer else self._send_now(line)
        if not rest:
            return
        grown = len(self._buffer) + len(rest)
        # One answer may be large; before the next one, the peer must have read.
        over = self._buffer and grown > self._shared.limits.output_bytes
        if over or not self._account.charge_output(len(rest)):
            self._shared.counters.slow_readers += 1
            self._failed()
            return
        self._buffer += rest
        if not self._watching:
            self._watching = True
            self._shared.loop.add_writer(self._sock.fileno(), self._writable)

    def send_event(self, line: bytes) -> bool:
        room_bytes = self._shared.limits.event_output_bytes - len(self._buffer)
        if self.drops_events or (self._buffer and len(line) > room_bytes):
            self.drop_event()
            return False
        self.send(line)
        return True

    @property
    def drops_events(self) -> bool:
        """From the first one that did not fit until all before it was read: one gap."""
        return self._dropped_events > 0

    def drop_event(self) -> None:
        self._dropped_events += 1
        self._shared.counters.dropped_events += 1

    def close(self) -> None:
        if self._watching:
            self._watching = False
            self._shared.loop.remove_writer(self._sock.fileno())
        self._account.charge_output(-len(self._buffer))
        self._buffer.clear()

    def _send_now(self, line: bytes) -> bytes:
        """What the socket did not take."""
        try:
            sent = self._sock.send(line, SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return line
        except OSError:
            self._failed()
            return b""
        return line[sent:]

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._buffer, SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._failed()
            return
        del self._buffer[:sent]
        self._account.charge_output(-sent)
        if self._buffer:
            return
        self._watching = False
        self._shared.loop.remove_writer(self._sock.fileno())
        if self._dropped_events:
            self._tell_dropped()
        self._emptied()

    def _tell_dropped(self) -> None:
        count, self._dropped_events = self._dropped_events, 0
        record = {"t_ns": _clock.now_ns(), "kind": "dropped", "count": count}
        self.send(codec.notification("event", record))
