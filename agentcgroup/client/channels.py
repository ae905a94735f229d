# SPDX-License-Identifier: Apache-2.0
"""The two sockets of one daemon, and which of them a request goes to.

Requests about one's own work go to the agent socket; a caller that turns out to be
in no session (an operator on the host) is asked again on the admin socket. What only
an administrator may do goes to the admin socket alone.
"""

from __future__ import annotations

import time
from typing import Any

from ..errors import AgentCgroupError, DaemonUnavailableError, NotPermittedError, RemoteError
from ..protocol.errors import Kind
from ..protocol.sockets import admin_socket_path, checked_socket_path, socket_from_environment
from .endpoint import RETRY_S, Endpoint
from .steps import Ask, Conversation
from .wire import Wire

__all__ = ["Channels"]

# What the agent socket says to a caller that is nobody's agent (or that it cannot tell,
# on a kernel without SO_PEERPIDFD), or that names what is not its own.
_NOT_HERE = frozenset(
    {
        Kind.NO_SESSION,
        Kind.NO_IDENTITY,
        Kind.NOT_PERMITTED,
        Kind.NOT_FOUND,
        Kind.NOT_SUPPORTED,
    }
)
_REMEMBER_ABSENT_S = 30.0


class Channels:
    def __init__(self, socket: str | None, timeout_s: float) -> None:
        agent_path = checked_socket_path(socket) if socket else socket_from_environment()
        admin_path = admin_socket_path(agent_path)
        self.timeout_s = timeout_s
        self.agent = Endpoint(agent_path, timeout_s)
        self.admin = self.agent if admin_path == agent_path else Endpoint(admin_path, timeout_s)
        self._absent_until_s = 0.0

    def close(self) -> None:
        self.agent.close()
        self.admin.close()

    def as_agent(self, method: str, params: dict[str, Any]) -> Conversation[dict[str, Any]]:
        """Ask as an agent, then (if that is not what the caller is) as an administrator."""
        try:
            return (yield from self.agent.request(method, params))
        except RemoteError as refusal:
            if not self.worth_asking_admin(refusal):
                raise
            try:
                return (yield from self.admin.request(method, params, retry_s=0.0))
            except (DaemonUnavailableError, NotPermittedError):
                raise refusal from None

    def subscribe(self, params: dict[str, Any]) -> Conversation[Wire]:
        """A connection that carries events from now on; the caller closes it."""
        try:
            return (yield from self._subscribe_at(self.agent, params))
        except RemoteError as refusal:
            if not self.worth_asking_admin(refusal):
                raise
            try:
                return (yield from self._subscribe_at(self.admin, params))
            except (DaemonUnavailableError, NotPermittedError):
                raise refusal from None

    def _subscribe_at(self, endpoint: Endpoint, params: dict[str, Any]) -> Conversation[Wire]:
        connection = yield from endpoint.acquire()
        try:
            yield Ask(connection, "events.subscribe", params, self.timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    def worth_asking_admin(self, refusal: RemoteError) -> bool:
        return self.admin is not self.agent and refusal.kind in _NOT_HERE

    @property
    def tool_retry_s(self) -> float:
        """How long a tool call waits for an absent daemon: once, not before every call."""
        return 0.0 if time.monotonic() < self._absent_until_s else RETRY_S

    def note_absent(self, problem: AgentCgroupError) -> str:
        """Remember that nobody answered; the one line that tells the user so."""
        self._absent_until_s = time.monotonic() + _REMEMBER_ABSENT_S
        return f"tool calls run without limits: {problem}"

    def note_present(self) -> None:
        self._absent_until_s = 0.0
