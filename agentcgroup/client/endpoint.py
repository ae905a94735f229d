# SPDX-License-Identifier: Apache-2.0
"""One socket path: connections made when needed and kept for the next request."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from ..errors import DaemonUnavailableError
from .steps import Ask, Conversation, Greet, Pause, Turns
from .wire import GREETING_TIMEOUT_S, Wire

__all__ = ["RETRY_PAUSE_S", "RETRY_S", "Endpoint"]

RETRY_S = 2.0
RETRY_PAUSE_S = 0.05
MAX_IDLE_CONNECTIONS = 4
MAX_GREETINGS = 8


class Endpoint:
    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._idle: list[Wire] = []
        self._turns = Turns(MAX_GREETINGS)
        self._lock = threading.Lock()

    def acquire(self, retry_s: float | None = None) -> Conversation[Wire]:
        """A live connection for the caller alone; give it back with `release`."""
        self._leave_parents_behind()
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return (yield from self.fresh(retry_s))
            if connection.usable:
                return connection
            connection.close()

    def release(self, connection: Wire) -> None:
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
    ) -> Conversation[dict[str, Any]]:
        """Sent once: only connecting is repeated, so nothing is done twice."""
        connection = yield from self.acquire(retry_s)
        try:
            result: dict[str, Any] = yield Ask(
                connection, method, params, timeout_s or self._timeout_s, pidfd
            )
            return result
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

    def fresh(self, retry_s: float | None = None) -> Conversation[Wire]:
        """A new connection on which the daemon has answered once.

        A stopped daemon's socket still accepts; without this first question a queued
        begin could not be told from a daemon that hangs.
        """
        deadline_s = time.monotonic() + (RETRY_S if retry_s is None else retry_s)
        while True:
            try:
                connection: Wire = yield Greet(self.path, GREETING_TIMEOUT_S, self._turns)
            except DaemonUnavailableError:
                if time.monotonic() >= deadline_s:
                    raise
                yield Pause(RETRY_PAUSE_S)
            else:
                return connection
