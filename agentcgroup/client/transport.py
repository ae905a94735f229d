# SPDX-License-Identifier: Apache-2.0
"""Connections to the daemon: framing, request ids, one descriptor per message.

A connection carries one request at a time; concurrent callers each get their own from
the endpoint's pool. That keeps a queued `tool.begin` from blocking anybody else, and
"a queued begin ends with its connection" then means exactly one call. The kernel
remembers who connected, so a forked child never uses its parent's connections.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import Any

from ..errors import (
    DaemonUnavailableError,
    InvalidValueError,
    NotPermittedError,
)
from ..protocol.codec import MAX_MESSAGE_BYTES, LineBuffer, decode, encode
from ..protocol.errors import from_error_object

__all__ = ["Connection", "ConnectionLostError", "Endpoint"]

RETRY_S = 2.0
RETRY_PAUSE_S = 0.05
GREETING_TIMEOUT_S = 2.0
MAX_IDLE_CONNECTIONS = 4
_RECEIVE_BYTES = 1 << 16


class ConnectionLostError(DaemonUnavailableError):
    """The connection ended, or stayed silent, before the answer came."""


class Connection:
    """One stream to the daemon; any failure closes it, so answers never mix up."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pid = os.getpid()
        self._next_id = 0
        self._buffer = LineBuffer()
        self._lines: deque[bytes] = deque()
        self._socket = _connect(path)

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

    def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        pidfd: int | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """The result object; raises RemoteError, or ConnectionLostError without an answer."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        line = encode(request)
        if len(line) > MAX_MESSAGE_BYTES:
            raise InvalidValueError(
                "message", f"{len(line)} bytes", f"a message may have {MAX_MESSAGE_BYTES} bytes"
            )
        try:
            self._send(method, line, pidfd, timeout_s)
            answer = self._answer(self._next_id, method, timeout_s)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise from_error_object(answer["error"])
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def next_message(self) -> dict[str, Any]:
        """The next message of a subscription, however long it takes."""
        return self._message("events.subscribe", None)

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        # A Client that is simply dropped takes its idle connections along, silently.
        if hasattr(self, "_socket"):
            self._socket.close()

    def _send(self, method: str, line: bytes, pidfd: int | None, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)
        try:
            sent = 0
            if pidfd is not None:
                # The descriptor belongs to the first byte: later ones carry nothing.
                sent = socket.send_fds(self._socket, [line], [pidfd])
            self._socket.sendall(line[sent:])
        except TimeoutError:
            raise self._silent(f"did not read {method} in time") from None
        except OSError as problem:
            raise ConnectionLostError(f"lost the daemon on {self.path}: {problem}") from None

    def _answer(self, request_id: int, method: str, timeout_s: float | None) -> dict[str, Any]:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._message(method, deadline_s)
            if message.get("id") == request_id and "method" not in message:
                return message
            if message.get("id") is None and "error" in message:
                raise from_error_object(message["error"])

    def _message(self, method: str, deadline_s: float | None) -> dict[str, Any]:
        while not self._lines:
            try:
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError
                self._socket.settimeout(left_s)
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                raise self._silent(f"did not answer {method} in time") from None
            except OSError as problem:
                raise ConnectionLostError(f"lost the daemon on {self.path}: {problem}") from None
            if not data:
                raise ConnectionLostError(f"the daemon on {self.path} closed the connection")
            self._lines.extend(self._buffer.feed(data))
        return decode(self._lines.popleft())

    def _silent(self, what: str) -> ConnectionLostError:
        return ConnectionLostError(f"the daemon on {self.path} {what}")


class Endpoint:
    """One socket path: connections made when needed and kept for the next request."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def acquire(self, retry_s: float | None = None) -> Connection:
        """A live connection for the caller alone; give it back with `release`."""
        self._leave_parents_behind()
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._greeted(retry_s)
            if connection.usable:
                return connection
            connection.close()

    def release(self, connection: Connection) -> None:
        if connection.usable:
            with self._lock:
                if len(self._idle) < MAX_IDLE_CONNECTIONS:
                    self._idle.append(connection)
                    return
        connection.close()

    def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        pidfd: int | None = None,
        retry_s: float | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Sent once: only connecting is repeated, so nothing is done twice."""
        connection = self.acquire(retry_s)
        try:
            return connection.request(
                method, params, pidfd=pidfd, timeout_s=timeout_s or self._timeout_s
            )
        finally:
            self.release(connection)

    def close(self) -> None:
        self._leave_parents_behind()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _leave_parents_behind(self) -> None:
        """After a fork the idle connections, and the lock it may have held, are the parent's."""
        if self._pid != os.getpid():
            self._pid, self._idle, self._lock = os.getpid(), [], threading.Lock()

    def _greeted(self, retry_s: float | None) -> Connection:
        """A connection on which the daemon has answered once.

        A stopped daemon's socket still accepts; without this first question a queued
        begin could not be told from a daemon that hangs.
        """
        deadline_s = time.monotonic() + (RETRY_S if retry_s is None else retry_s)
        while True:
            try:
                connection = Connection(self.path)
                connection.request("host.version", {}, timeout_s=GREETING_TIMEOUT_S)
            except DaemonUnavailableError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(RETRY_PAUSE_S)
            else:
                return connection


def _connect(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # An empty backlog answers at once; a full one must not hang the caller.
        stream.settimeout(GREETING_TIMEOUT_S)
        stream.connect(path)
    except PermissionError:
        stream.close()
        raise NotPermittedError(
            f"cannot connect to {path}: permission denied; use sudo, or join the group that"
            " owns the socket (the agent socket is open to everybody)"
        ) from None
    except OSError as problem:
        stream.close()
        raise DaemonUnavailableError(
            f"no daemon answers on {path} ({problem.strerror or 'timed out'}):"
            " start agentcgroupd, or set AGENTCGROUP_SOCKET to its agent socket"
        ) from None
    return stream
