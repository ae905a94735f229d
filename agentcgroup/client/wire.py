# SPDX-License-Identifier: Apache-2.0
"""What every connection to the daemon is, whoever waits on it: framing, request ids, whose
it is.

A connection carries one request at a time; concurrent callers each get their own from
the endpoint's pool. That keeps a queued `tool.begin` from blocking anybody else, and
"a queued begin ends with its connection" then means exactly one call. The kernel
remembers who connected, so a forked child never uses its parent's connections.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Any

from ..errors import DaemonUnavailableError, InvalidValueError, NotPermittedError
from ..protocol.codec import MAX_MESSAGE_BYTES, LineBuffer, decode, encode
from ..protocol.errors import from_error_object

__all__ = [
    "GREETING_TIMEOUT_S",
    "ConnectionLostError",
    "Wire",
    "connect_problem",
    "new_socket",
    "result_of",
]

GREETING_TIMEOUT_S = 2.0
RECEIVE_BYTES = 1 << 16


class ConnectionLostError(DaemonUnavailableError):
    """The connection ended, or stayed silent, before the answer came."""


class Wire:
    """Any failure closes it, so answers never mix up."""

    def __init__(self, path: str, stream: socket.socket) -> None:
        self.path = path
        self._pid = os.getpid()
        self._last_id = 0
        self._buffer = LineBuffer()
        self._lines: deque[bytes] = deque()
        self._socket = stream

    @property
    def usable(self) -> bool:
        """False after a fork, a close, or when the daemon has gone meanwhile."""
        if self._pid != os.getpid() or self._socket.fileno() < 0 or self._lines:
            return False
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # end of file, or bytes nobody asked for

    def close(self) -> None:
        self._socket.close()

    def _question(self, method: str, params: dict[str, Any]) -> bytes:
        """The next request's line."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        line = encode(request)
        if len(line) > MAX_MESSAGE_BYTES:
            raise InvalidValueError(
                "message", f"{len(line)} bytes", f"a message may have {MAX_MESSAGE_BYTES} bytes"
            )
        return line

    def _heard(self, data: bytes) -> None:
        if not data:
            raise ConnectionLostError(f"the daemon on {self.path} closed the connection")
        self._lines.extend(self._buffer.feed(data))

    def _message(self) -> dict[str, Any] | None:
        """The oldest message that arrived whole."""
        return decode(self._lines.popleft()) if self._lines else None

    def _answer(self) -> dict[str, Any] | None:
        """The answer to the last request, if it is among what arrived."""
        while (message := self._message()) is not None:
            if message.get("id") == self._last_id and "method" not in message:
                return message
            if message.get("id") is None and "error" in message:
                raise from_error_object(message["error"])
        return None

    def _unread(self, method: str) -> ConnectionLostError:
        return ConnectionLostError(f"the daemon on {self.path} did not read {method} in time")

    def _unanswered(self, method: str) -> ConnectionLostError:
        return ConnectionLostError(f"the daemon on {self.path} did not answer {method} in time")

    def _lost(self, problem: OSError) -> ConnectionLostError:
        return ConnectionLostError(f"lost the daemon on {self.path}: {problem}")


def result_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The result object of an answer; raises RemoteError for an error."""
    if "error" in answer:
        raise from_error_object(answer["error"])
    result = answer.get("result")
    return result if isinstance(result, dict) else {}


class _QuietSocket(socket.socket):
    """A Client that is simply dropped takes its idle connections along, without a warning."""

    def __del__(self) -> None:
        self.close()


def new_socket() -> socket.socket:
    return _QuietSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def connect_problem(path: str, problem: OSError) -> Exception:
    """What a failed connect means to the user."""
    if isinstance(problem, PermissionError):
        return NotPermittedError(
            f"cannot connect to {path}: permission denied; use sudo, or join the group that"
            " owns the socket (the agent socket is open to everybody)"
        )
    return DaemonUnavailableError(
        f"no daemon answers on {path} ({problem.strerror or 'timed out'}):"
        " start agentcgroupd, or set AGENTCGROUP_SOCKET to its agent socket"
    )
