# SPDX-License-Identifier: Apache-2.0
"""The daemon's two sockets: who may connect, and one place where handlers are started.

    server = Server(handler, registry)
    await server.start("/run/agentcgroup/agent/agent.sock", "/run/agentcgroup/admin.sock")
    …
    await server.close()

Agents and containers are offered the first one only. The second one is root-equivalent;
its mode decides who connects, and the peer must share the daemon's namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import sys

from ..errors import NotSupportedError
from ..log import get_logger, warn_once
from ..protocol import codec
from ..protocol.errors import Kind, ProtocolError, error_object
from ..protocol.messages import Access
from .connection import Connection
from .connection_output import SEND_FLAGS
from .identity import Namespaces, PeerHandle, Registry, peer_pidfd_offered
from .server_limits import Account, Accounts, ServerLimits, raise_descriptor_limit
from .server_listen import ListeningSocket
from .server_request import ConnectionRef, Handler, RequestContext
from .server_shared import Shared

__all__ = ["ConnectionRef", "Handler", "RequestContext", "Server", "ServerLimits"]

_log = get_logger(__name__)
# A service manager waits longer than this before it kills.
_CLOSE_PATIENCE_S = 5.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    def __init__(
        self, handler: Handler, registry: Registry, limits: ServerLimits | None = None
    ) -> None:
        self._handler = handler
        self._registry = registry
        self.limits = limits or ServerLimits()
        self._listening: list[ListeningSocket] = []
        self._connections: set[Connection] = set()
        self._running: set[asyncio.Task[str]] = set()
        self._next_id = 1
        self._shared: Shared | None = None
        self._spare_fd = -1

    async def start(
        self, agent_path: str, admin_path: str, group: str | None = "agentcgroup"
    ) -> None:
        """ConfigError(socket) if a path can't be used; then nothing is left behind."""
        namespaces = Namespaces.of("self")
        if namespaces is None:
            raise NotSupportedError("cannot read the daemon's own namespaces: is /proc mounted?")
        self._namespaces = namespaces
        self._offered = peer_pidfd_offered()
        if not self._offered:
            warn_once(_log, "this kernel has no SO_PEERPIDFD: agents are refused, only"
                            " administrators are served")  # fmt: skip
        loop = asyncio.get_running_loop()
        self._shared = Shared(loop, self.limits, self._registry, self._start_handler)
        self._accounts = Accounts(self.limits, raise_descriptor_limit())
        self._spare_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._listening.append(ListeningSocket(agent_path, 0o666))
            self._listening.append(ListeningSocket(admin_path, 0o660, group))
        except BaseException:
            await self.close()
            raise
        for listening, admin in zip(self._listening, (False, True), strict=True):
            loop.add_reader(listening.sock.fileno(), self._accept, listening.sock, admin)

    async def close(self) -> None:
        """No new connections, the old ones end, their handlers are cancelled and awaited."""
        if self._shared is None:
            return
        for listening in self._listening:
            self._shared.loop.remove_reader(listening.sock.fileno())
            listening.close()
        self._listening.clear()
        for connection in tuple(self._connections):
            connection.close()
        if self._running:
            _, stuck = await asyncio.wait(self._running, timeout=_CLOSE_PATIENCE_S)
            for task in stuck:
                _log.warning("a cancelled request does not end: %r", task)
        self._shared.closer.stop()
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1

    def stats(self) -> dict[str, int]:
        """For host.status: what is in use now, and counts since the start."""
        if self._shared is None:
            return {}
        counters = self._shared.counters
        return {
            **self._accounts.in_use(),
            "unclosed_descriptors": self._shared.closer.total(),
            **{name: getattr(counters, name) for name in counters.__slots__},
        }

    # Connections

    def _accept(self, listening: socket.socket, admin: bool) -> None:
        """One a turn: who else waits keeps the listening socket readable."""
        try:
            client, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._shed(listening)
            return  # else the client gave up meanwhile
        try:
            self._admit(client, admin)
        except Exception as error:
            self._turned_away(error)
            self._shared_now.closer.close_socket(client, "nobody")

    def _admit(self, client: socket.socket, admin: bool) -> None:
        shared = self._shared_now
        peer = PeerHandle(client, self._namespaces, admin=admin, offered=self._offered)
        who = peer.stranger()
        try:
            who = peer.identify(self._registry)
        except ProtocolError as error:
            if admin:
                self._refuse(client, peer, error)
                return
        account = self._accounts.find(
            admin=admin, session=who.session, uid=who.uid, inside=who.role is Access.LEAF
        )
        if not account.admit():
            self._accounts.forget_unused(account)
            self._refuse(client, peer, _too_many_connections(account))
            return
        shared.counters.accepted += 1
        number, self._next_id = self._next_id, self._next_id + 1
        self._connections.add(
            Connection(number, shared, client, peer, account=account, closed=self._closed)
        )

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        connection.account.leave()
        self._accounts.forget_unused(connection.account)

    def _refuse(self, client: socket.socket, peer: PeerHandle, error: ProtocolError) -> None:
        self._shared_now.counters.refused_connections += 1
        with contextlib.suppress(OSError):
            client.send(codec.error(None, error_object(error)), SEND_FLAGS)
        self._shared_now.closer.close_socket(client, f"uid {peer.uid}")
        peer.close()

    def _shed(self, listening: socket.socket) -> None:
        """Turn one client away, else it stays first in the queue for ever."""
        self._turned_away(OSError(errno.EMFILE, "no descriptor left"))
        os.close(self._spare_fd)
        with contextlib.suppress(OSError):
            listening.accept()[0].close()
        self._spare_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _turned_away(self, error: Exception) -> None:
        self._shared_now.counters.refused_connections += 1
        if isinstance(error, OSError) and error.errno in _OUT_OF_DESCRIPTORS:
            warn_once(_log, "out of file descriptors: clients are turned away; raise LimitNOFILE")
        else:
            _log.error("a connection could not be set up", exc_info=error)

    # Requests

    def _start_handler(self, context: RequestContext) -> asyncio.Task[str]:
        """A handler that never has to wait is done when this returns (Python 3.12 and later)."""
        unclaimed = [] if context.descriptor is None else [context.descriptor]
        coroutine = self._run(context, unclaimed)
        loop = self._shared_now.loop
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coroutine, loop=loop, eager_start=True)
        else:
            task = loop.create_task(coroutine)
        if not task.done():
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            if unclaimed:
                # Cancelled before its first step, a coroutine's body never runs.
                task.add_done_callback(functools.partial(_close_all, unclaimed))
        return task

    async def _run(self, context: RequestContext, unclaimed: list[int]) -> str:
        unclaimed.clear()
        return await self._handler(context)

    @property
    def _shared_now(self) -> Shared:
        assert self._shared is not None, "the server was not started"
        return self._shared


def _close_all(unclaimed: list[int], _task: object) -> None:
    for fd in unclaimed:
        os.close(fd)


def _too_many_connections(account: Account) -> ProtocolError:
    return ProtocolError(
        Kind.TOO_MANY, "too many connections", field="connection", value=account.name,
        remedy=f"close some; {account.caps.connections} are offered to {account.name}",
    )  # fmt: skip
