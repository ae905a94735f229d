# SPDX-License-Identifier: Apache-2.0
"""Who a peer is: what the kernel says, asked anew for every request.

The peer's pidfd (SO_PEERPIDFD) names the process that called connect(). The kernel tells
its cgroup by that pidfd; one that can't is asked through a descriptor on the peer's own
/proc entry, which is bound to the process and not to its number. Either way the pidfd
then confirms that the peer still lives: a recycled pid is never mistaken for it. The uid
decides nothing here.
"""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass
from typing import Literal, Protocol

from ..cgroupfs import pidfd as pidfds
from ..cgroupfs import proc, whereabouts
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access
from .identity_ancestors import outside_session_of

__all__ = [
    "Identity",
    "Location",
    "Namespaces",
    "PeerHandle",
    "Registry",
    "peer_pidfd_offered",
]

# A v2 path has at most PATH_MAX bytes; v1 hierarchies add a line each.
_CGROUP_FILE_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Location:
    """Where in a session a cgroup is. `session` is the session's own directory."""

    session: str
    place: Literal["agent", "leaf", "background", "session"]
    call: str | None = None


class Registry(Protocol):
    """What the daemon knows about its sessions, as far as identity needs it."""

    def locate(self, cgroup_path: str) -> Location | None:
        """`cgroup_path` as in /proc/PID/cgroup; None if it is in no session."""

    def any_outside(self) -> bool:
        """Is any session's agent outside? If not, nobody's ancestors need be asked."""

    def outside_session(self, pid: int, start_time: int) -> str | None:
        """The session whose outside agent is this very process (clock ticks after boot)."""

    def session_of_call(self, call: str) -> str | None:
        """The session of a call that is queued, running or remembered."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One peer at one request. `role` ANYONE is a stranger; `pidfd` is borrowed.

    `pid` is the number in the daemon's pid namespace, uid and gid are those of connect().
    """

    role: Access
    pid: int
    uid: int
    gid: int
    session: str | None = None
    call: str | None = None
    pidfd: int = -1


@dataclass(frozen=True, slots=True)
class Namespaces:
    """An administrator's must equal the daemon's: a container's root has its own."""

    user: int
    pid: int

    @classmethod
    def of(cls, pid: int | str) -> Namespaces | None:
        user, own_pid = proc.namespace_id(pid, "user"), proc.namespace_id(pid, "pid")
        return cls(user, own_pid) if user is not None and own_pid is not None else None


def peer_pidfd_offered() -> bool:
    """Does this kernel have SO_PEERPIDFD? Seen by its effect, not by a version."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        fd = pidfds.peer_pidfd(ours)
    if fd is None:
        return False
    os.close(fd)
    return True


class PeerHandle:
    """The process at the other end of one connection, for as long as that lives.

    `admin` says which socket it came by; then its namespaces must be `namespaces`.
    """

    __slots__ = (
        "_alive_poll", "_cgroup_fd", "_namespaces", "_offered", "admin", "gid", "pid", "pidfd",
        "uid",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, namespaces: Namespaces | None, *, admin: bool, offered: bool
    ) -> None:
        self.pid, self.uid, self.gid = pidfds.peer_credentials(sock)
        self.admin = admin
        self._namespaces = namespaces
        self._offered = offered
        self._cgroup_fd = -1
        self.pidfd = self._open(sock)
        self._alive_poll = select.poll()
        if self.pidfd >= 0:
            self._alive_poll.register(self.pidfd, select.POLLIN)

    def identify(self, registry: Registry) -> Identity:
        """Refuses with no_identity, not_supported or (on the admin socket) not_permitted."""
        path = self._cgroup_path()
        location = registry.locate(path)
        if location is not None:
            inside = location.place in ("leaf", "background")
            role = Access.LEAF if inside else Access.AGENT
            session: str | None = location.session
        else:
            session = None
            if registry.any_outside():
                start_time = proc.start_time_ticks(self.pid) or 0
                session = outside_session_of(self.pid, start_time, registry.outside_session)
            role = Access.ANYONE if session is None else Access.AGENT
        if self.admin:
            self._check_namespaces()
            role = Access.ADMIN
        # Last: whatever was read above by number belonged to the peer if it lives now.
        self._confirm_alive()
        return Identity(
            role, self.pid, self.uid, self.gid, session,
            location.call if location is not None else None, self.pidfd,
        )  # fmt: skip

    def stranger(self) -> Identity:
        """For what is answered to anyone: nothing is asked, nothing is claimed."""
        return Identity(Access.ANYONE, self.pid, self.uid, self.gid, pidfd=self.pidfd)

    def close(self) -> None:
        for fd in (self.pidfd, self._cgroup_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self._cgroup_fd = -1

    def _open(self, sock: socket.socket) -> int:
        if self._offered:
            fd = pidfds.peer_pidfd(sock)
            return -1 if fd is None else fd
        if not self.admin or self.pid <= 0:
            return -1
        # Without SO_PEERPIDFD only the number is known. Whoever may connect here is
        # root-equivalent by the socket's mode; from now on it cannot be exchanged.
        before = proc.start_time_ticks(self.pid)
        try:
            fd = pidfds.open_pidfd(self.pid)
        except OSError:
            return -1
        if before is None or before != proc.start_time_ticks(self.pid):
            os.close(fd)
            return -1
        return fd

    def _pin(self) -> None:
        """Bind to the peer's /proc entry; it is the peer's if the pidfd lives afterwards."""
        if self.pid <= 0:
            return
        try:
            self._cgroup_fd = os.open(f"/proc/{self.pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return
        if self._alive_poll.poll(0):
            os.close(self._cgroup_fd)
            self._cgroup_fd = -1

    def _cgroup_path(self) -> str:
        if not self._offered and not self.admin:
            raise ProtocolError(
                Kind.NOT_SUPPORTED, "this kernel cannot tell who is calling (no SO_PEERPIDFD)",
                field="connection", value="SO_PEERPIDFD",
                remedy="run Linux 6.5 or newer, or use the administrators' socket",
            )  # fmt: skip
        if self.pidfd >= 0:
            path = whereabouts.path_of(self.pidfd, pidfds.info(self.pidfd))
            if path is not None:
                return path
            if self._cgroup_fd < 0:
                self._pin()
        if self._cgroup_fd < 0:
            raise _no_identity(self.pid, "it cannot be seen from here or has ended")
        return self._pinned_path()

    def _pinned_path(self) -> str:
        try:
            # From offset 0 the kernel writes the text anew.
            data = os.pread(self._cgroup_fd, _CGROUP_FILE_BYTES, 0)
        except OSError as error:
            raise _no_identity(self.pid, error.strerror or "unreadable") from None
        start = data.rfind(b"\n0::") + 1
        if len(data) == _CGROUP_FILE_BYTES or not data.startswith(b"0::", start):
            raise _no_identity(self.pid, "it is in no cgroup v2")
        return os.fsdecode(data[start + 3 :].split(b"\n", 1)[0])

    def _check_namespaces(self) -> None:
        theirs = Namespaces.of(self.pid)
        if theirs is None:
            raise _no_identity(self.pid, "its namespaces cannot be read")
        if theirs != self._namespaces:
            raise ProtocolError(
                Kind.NOT_PERMITTED,
                "administrators must share the daemon's user and pid namespaces",
                field="connection", value=f"user {theirs.user}, pid {theirs.pid}",
                remedy="run the command on the host; containers use the agents' socket",
            )  # fmt: skip

    def _confirm_alive(self) -> None:
        if self._alive_poll.poll(0):
            raise _no_identity(self.pid, "it has ended")


def _no_identity(pid: int, why: str) -> ProtocolError:
    return ProtocolError(
        Kind.NO_IDENTITY, f"cannot tell which process is calling: {why}",
        field="connection", value=pid,
        remedy="connect from the process that asks, and keep it alive until the answer",
    )  # fmt: skip
