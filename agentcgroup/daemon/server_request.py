# SPDX-License-Identifier: Apache-2.0
"""What a handler gets and what it may do with the connection the request came by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from ..protocol.messages import Method
from .identity import Identity

__all__ = ["ConnectionRef", "Handler", "RequestContext"]


class ConnectionRef(Protocol):
    """Valid after the connection's end as well: then nothing is sent any more."""

    @property
    def id(self) -> int:
        """Never used again in this server's life."""

    @property
    def alive(self) -> bool: ...

    def notify(self, method: str, params: dict[str, Any]) -> bool:
        """Send a notification; False if dropped (counted, and told when there is room)."""

    def notify_line(self, line: bytes) -> bool:
        """The same for one that is encoded already (codec.notification), for many peers."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call back once at the connection's end; at once if that was before."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request that its caller was allowed to make.

    `descriptor` is a pidfd that the handler owns and closes; `identity.pidfd` is only
    lent, until the handler returns.
    """

    identity: Identity
    method: Method
    params: BaseModel
    descriptor: int | None
    connection: ConnectionRef

    @property
    def session(self) -> str | None:
        """The session meant: the one named, else the caller's own; None only for admins."""
        named: str | None = getattr(self.params, "session", None)
        return self.identity.session if named is None else named


class Handler(Protocol):
    """Gives the result as JSON text. Cancelled when the connection ends. ProtocolError and
    InvalidValueError are answers."""

    async def __call__(self, context: RequestContext) -> str: ...
