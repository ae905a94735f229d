# SPDX-License-Identifier: Apache-2.0
"""Bytes and descriptors of one connection → messages, each with at most one pidfd.

A read that brings descriptors ends with the send() that carried them (unix(7)), and that
send() began a message: so they belong to the message in which the read ended.
"""

from __future__ import annotations

import array
import os
import socket
from dataclasses import dataclass

from ..protocol.codec import LineBuffer
from ..protocol.errors import Kind, ProtocolError
from .connection_closer import received_pidfd
from .server_limits import Account
from .server_shared import Shared

__all__ = ["Incoming", "Input"]

# SCM_MAX_FD of the kernel. With less room the kernel itself would drop the rest, in our
# thread, which a lingering socket among them could hold up.
_MAX_DESCRIPTORS = 253
_CONTROL_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
# Plain numbers: every operation on socket's own flags is a walk through enum.py.
_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_CTRUNC)


@dataclass(slots=True)
class Incoming:
    """One line. `descriptor` is a pidfd; `refused` says why the message can't be served."""

    line: bytes = b""
    descriptor: int | None = None
    refused: ProtocolError | None = None


class Input:
    """`partial` stands for the message whose end has not arrived yet."""

    __slots__ = ("_account", "_buffer", "_charged_bytes", "_partial", "_shared")

    def __init__(self, shared: Shared, account: Account) -> None:
        self._shared = shared
        self._account = account
        self._buffer = LineBuffer(shared.limits.message_bytes)
        self._charged_bytes = 0
        self._partial: Incoming | None = None

    def receive(self, sock: socket.socket) -> list[Incoming] | None:
        """One read: the messages it completed, None at the end of the stream.

        Raises BlockingIOError, OSError, and ProtocolError when the connection can't go on.
        """
        owner, shared = self._account.name, self._shared
        if shared.closer.pending(owner) > shared.limits.unclosed_descriptors:
            raise _too_many("descriptors of yours that could not be closed yet", owner)
        size, ancillary, flags, _ = sock.recvmsg_into([shared.scratch], _CONTROL_BYTES, _FLAGS)
        came = self._came(ancillary, flags) if ancillary or flags & _TRUNCATED else None
        held_bytes = len(self._buffer)
        try:
            if not size:
                return None
            with memoryview(shared.scratch) as view:
                lines = self._buffer.feed(bytes(view[:size]))
            self._charge()
        except ProtocolError:
            self._drop(came)
            raise
        messages = [Incoming(line) for line in lines]
        if self._partial is not None and messages:
            messages[0].descriptor = self._partial.descriptor
            messages[0].refused = self._partial.refused
            self._partial = None
        if came is not None:
            self._attach(came, messages, held_bytes)
        return messages

    def discard(self, pidfd: int) -> None:
        os.close(pidfd)

    def close(self) -> None:
        self._drop(self._partial)
        self._partial = None
        self._account.charge_input(-self._charged_bytes)
        self._charged_bytes = 0

    def _came(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> Incoming:
        """The one pidfd that came, or why the message that brought it is refused."""
        found = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
        if len(found) == 1 and not flags & _TRUNCATED and received_pidfd(found[0]):
            return Incoming(descriptor=found[0])
        for fd in found:
            self._shared.closer.close_received(fd, self._account.name)
        self._shared.counters.bad_descriptors += 1
        surplus = len(found) != 1 or flags & _TRUNCATED
        return Incoming(refused=_bad_descriptor("more than one" if surplus else "not a pidfd"))

    def _attach(self, came: Incoming, messages: list[Incoming], held_bytes: int) -> None:
        if len(self._buffer):
            begun_here = bool(messages) or not held_bytes
            target = self._partial = self._partial or Incoming()
        else:
            begun_here = len(messages) > 1 or not held_bytes
            target = messages[-1]
        if begun_here and target.descriptor is None and target.refused is None:
            target.descriptor, target.refused = came.descriptor, came.refused
            return
        self._drop(came)
        self._drop(target)
        target.descriptor = None
        target.refused = _bad_descriptor("not on the first byte of its message")

    def _charge(self) -> None:
        held_bytes = len(self._buffer)
        if held_bytes != self._charged_bytes:
            if not self._account.charge_input(held_bytes - self._charged_bytes):
                raise _too_many("unfinished messages are held for", self._account.name)
            self._charged_bytes = held_bytes

    def _drop(self, message: Incoming | None) -> None:
        if message is not None and message.descriptor is not None:
            self.discard(message.descriptor)


def _bad_descriptor(why: str) -> ProtocolError:
    return ProtocolError(
        Kind.BAD_DESCRIPTOR, f"cannot use the descriptor: {why}", field="descriptor", value=why,
        remedy="send one pidfd (pidfd_open) along with the first byte of the message",
    )  # fmt: skip


def _too_many(what: str, owner: str) -> ProtocolError:
    return ProtocolError(
        Kind.TOO_MANY, f"too many {what} {owner}", field="connection", value=owner,
        remedy="end messages with a newline and send pidfds only; the connection is closed now",
    )  # fmt: skip
