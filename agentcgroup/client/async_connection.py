# SPDX-License-Identifier: Apache-2.0
"""A connection whose requests suspend the calling task, and nobody else.

A cancelled request closes the connection: a queued `tool.begin` ends with it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from .wire import (
    GREETING_TIMEOUT_S,
    RECEIVE_BYTES,
    Wire,
    connect_problem,
    new_socket,
    result_of,
)

__all__ = ["AsyncConnection"]


class AsyncConnection(Wire):
    @classmethod
    async def open(cls, path: str) -> AsyncConnection:
        stream = new_socket()
        stream.setblocking(False)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(stream, path)
        except OSError as problem:
            stream.close()
            raise connect_problem(path, problem) from None
        except BaseException:
            stream.close()
            raise
        return cls(path, stream)

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        pidfd: int | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """The result object; raises RemoteError, or ConnectionLostError without an answer."""
        line = self._question(method, params)
        self._socket.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(line, pidfd)
                while (answer := self._answer()) is None:
                    await self._receive()
        except TimeoutError:
            self.close()
            raise self._unanswered(method) from None
        except BaseException:
            self.close()
            raise
        return result_of(answer)

    async def next_message(self) -> dict[str, Any]:
        """The next message of a subscription, however long it takes."""
        while (message := self._message()) is None:
            await self._receive()
        return message

    async def _send(self, line: bytes, pidfd: int | None) -> None:
        try:
            sent = 0
            if pidfd is not None:
                # A fresh request finds room for its first byte, which carries the descriptor.
                sent = socket.send_fds(self._socket, [line], [pidfd])
            await asyncio.get_running_loop().sock_sendall(self._socket, line[sent:])
        except OSError as problem:
            raise self._lost(problem) from None

    async def _receive(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, RECEIVE_BYTES)
        except OSError as problem:
            raise self._lost(problem) from None
        self._heard(data)
