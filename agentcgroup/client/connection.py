# SPDX-License-Identifier: Apache-2.0
"""A connection whose requests block the calling thread."""

from __future__ import annotations

import socket
import time
from typing import Any

from .wire import (
    GREETING_TIMEOUT_S,
    RECEIVE_BYTES,
    Wire,
    connect_problem,
    new_socket,
    result_of,
)

__all__ = ["Connection"]


class Connection(Wire):
    @classmethod
    def open(cls, path: str) -> Connection:
        stream = new_socket()
        try:
            # An empty backlog answers at once; a full one must not hang the caller.
            stream.settimeout(GREETING_TIMEOUT_S)
            stream.connect(path)
        except OSError as problem:
            stream.close()
            raise connect_problem(path, problem) from None
        return cls(path, stream)

    def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        pidfd: int | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """The result object; raises RemoteError, or ConnectionLostError without an answer."""
        line = self._question(method, params)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._send(method, line, pidfd, timeout_s)
            while (answer := self._answer()) is None:
                self._receive(method, deadline_s)
        except BaseException:
            self.close()
            raise
        return result_of(answer)

    def next_message(self) -> dict[str, Any]:
        """The next message of a subscription, however long it takes."""
        while (message := self._message()) is None:
            self._receive("events.subscribe", None)
        return message

    def _send(self, method: str, line: bytes, pidfd: int | None, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)
        try:
            sent = 0
            if pidfd is not None:
                # The descriptor belongs to the first byte: later ones carry nothing.
                sent = socket.send_fds(self._socket, [line], [pidfd])
            self._socket.sendall(line[sent:])
        except TimeoutError:
            raise self._unread(method) from None
        except OSError as problem:
            raise self._lost(problem) from None

    def _receive(self, method: str, deadline_s: float | None) -> None:
        try:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise self._unanswered(method) from None
        except OSError as problem:
            raise self._lost(problem) from None
        self._heard(data)
