# SPDX-License-Identifier: Apache-2.0
"""How much of the daemon a peer may use, and the accounts that count it.

An account is a session's agent's, its tools', a uid's among the strangers, or the
administrators'. It stands in a chain (uid → all strangers → everybody) and is charged in
every link, so that many small owners can't take what a big one may not.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

from ..protocol.codec import MAX_MESSAGE_BYTES

__all__ = ["Account", "Accounts", "Caps", "ServerLimits", "raise_descriptor_limit"]

_MIB = 1 << 20
# Per connection: the socket, the peer's pidfd, its /proc entry.
_DESCRIPTORS_PER_CONNECTION = 3
_DESCRIPTORS_FOR_OTHERS = 512


@dataclass(frozen=True, slots=True)
class Caps:
    """`input_bytes`: held before a full line is there; `output_bytes`: not yet read."""

    connections: int
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Defaults hold 1,000 idle connections of one session and refuse to grow with more."""

    everybody: Caps = Caps(6000, 128 * _MIB, 128 * _MIB)
    session: Caps = Caps(1200, 16 * _MIB, 32 * _MIB)
    strangers: Caps = Caps(2000, 16 * _MIB, 16 * _MIB)
    stranger_uid: Caps = Caps(1200, 8 * _MIB, 8 * _MIB)
    admin: Caps = Caps(2000, 64 * _MIB, 64 * _MIB)
    message_bytes: int = MAX_MESSAGE_BYTES
    # One connection's unread answers; past it the connection is closed.
    output_bytes: int = 4 * _MIB
    # Past this many unread bytes events are dropped and counted instead.
    event_output_bytes: int = 256 << 10
    requests_in_flight: int = 64
    # Requests that one connection may have served before the others' turn.
    requests_per_turn: int = 8
    # Foreign descriptors that an owner sent and whose close() has not returned.
    unclosed_descriptors: int = 64


class Account:
    """What one owner has in use. Charging past a cap is refused and changes nothing."""

    __slots__ = ("caps", "connections", "input_bytes", "name", "output_bytes", "parent")

    def __init__(self, name: str, caps: Caps, parent: Account | None = None) -> None:
        self.name = name
        self.caps = caps
        self.parent = parent
        self.connections = 0
        self.input_bytes = 0
        self.output_bytes = 0

    def admit(self) -> bool:
        if self.connections >= self.caps.connections:
            return False
        if self.parent is not None and not self.parent.admit():
            return False
        self.connections += 1
        return True

    def leave(self) -> None:
        self.connections -= 1
        if self.parent is not None:
            self.parent.leave()

    def charge_input(self, delta_bytes: int) -> bool:
        if delta_bytes > 0 and self.input_bytes + delta_bytes > self.caps.input_bytes:
            return False
        if self.parent is not None and not self.parent.charge_input(delta_bytes):
            return False
        self.input_bytes += delta_bytes
        return True

    def charge_output(self, delta_bytes: int) -> bool:
        if delta_bytes > 0 and self.output_bytes + delta_bytes > self.caps.output_bytes:
            return False
        if self.parent is not None and not self.parent.charge_output(delta_bytes):
            return False
        self.output_bytes += delta_bytes
        return True


class Accounts:
    """All accounts in use; an owner without connections has none."""

    def __init__(self, limits: ServerLimits, max_connections: int) -> None:
        caps = limits.everybody
        self._limits = limits
        self.everybody = Account(
            "everybody",
            Caps(min(caps.connections, max_connections), caps.input_bytes, caps.output_bytes),
        )
        self._strangers = Account("strangers", limits.strangers, self.everybody)
        # Not below `everybody`: whoever fills the host must not lock out its administrators.
        self._admin = Account("administrators", limits.admin)
        self._owners: dict[str, Account] = {}

    def find(
        self, *, admin: bool, session: str | None, uid: int, inside: bool = False
    ) -> Account:  # fmt: skip
        """`inside`: in a tool call, which must not use up what the agent itself needs."""
        if admin:
            return self._admin
        if session is not None:
            name = f"tools of session {session}" if inside else f"session {session}"
            caps, parent = self._limits.session, self.everybody
        else:
            name, caps, parent = f"uid {uid}", self._limits.stranger_uid, self._strangers
        found = self._owners.get(name)
        if found is None:
            found = self._owners[name] = Account(name, caps, parent)
        return found

    def forget_unused(self, account: Account) -> None:
        if account.connections == 0 and self._owners.get(account.name) is account:
            del self._owners[account.name]

    def in_use(self) -> dict[str, int]:
        both = (self.everybody, self._admin)
        return {
            "connections": sum(a.connections for a in both),
            "input_bytes": sum(a.input_bytes for a in both),
            "output_bytes": sum(a.output_bytes for a in both),
        }


def raise_descriptor_limit() -> int:
    """Use what the hard limit allows; returns how many connections that makes room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return 1 << 20
    return max(16, (hard - _DESCRIPTORS_FOR_OTHERS) // _DESCRIPTORS_PER_CONNECTION)
