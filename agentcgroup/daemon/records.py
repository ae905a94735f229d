# SPDX-License-Identifier: Apache-2.0
"""What the daemon knows of live sessions and calls, and its form in the tree's xattrs.

The tree is the database: `trusted.agentcgroup.session` and `.call` hold JSON that a
restarted daemon reads back. `trusted.*` can be neither read nor written by the owner
of the directory (xattr(7)).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cgroupfs import pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError
from ..log import get_logger, warn_once
from ..types.actions import Because, Code
from ..types.intents import Intent
from ..types.limits import Limits
from ..types.outcomes import BiggestProcess, Reason
from ..types.sessions import Mode, SessionKind, SessionSpec

__all__ = [
    "ADOPTED_XATTR",
    "CALL_XATTR",
    "CONTAINER_XATTR",
    "EPOCH_TIME_XATTR",
    "EPOCH_XATTR",
    "SESSION_XATTR",
    "CallRecord",
    "ProcessRef",
    "SessionRecord",
    "boot_id",
    "load_because",
    "load_xattr",
]

SESSION_XATTR = "trusted.agentcgroup.session"
ADOPTED_XATTR = "trusted.agentcgroup.adopted."
"""At the tree's root, with a session's name behind: the directory of a cgroup that is one."""
CONTAINER_XATTR = "trusted.agentcgroup.container."
"""At the tree's root, with a container's id behind: that it was attached or detached by hand."""
CALL_XATTR = "trusted.agentcgroup.call"
EPOCH_XATTR = "trusted.agentcgroup.epoch"
EPOCH_TIME_XATTR = "trusted.agentcgroup.epoch_time_ns"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process for good, in this boot: its pid, and what no later owner of the pid has.

    `birth` is the inode of its pidfd where pidfds have their own (pidfs, Linux 6.9), else
    its start time in clock ticks after boot.
    """

    pid: int
    birth: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        try:
            fd = pidfd.open_pidfd(pid)
        except OSError:
            return None
        try:
            return cls.of_pidfd(fd, pid)
        finally:
            os.close(fd)

    @classmethod
    def of_pidfd(cls, fd: int, pid: int) -> ProcessRef | None:
        """`pid` is the number of the process that `fd` stands for, here."""
        birth = pidfd.pidfd_id(fd)
        if birth is None:
            birth = proc.start_time_ticks(pid)
            if birth is None or not pidfd.is_alive(fd):
                return None
        return cls(pid, birth)

    def open(self) -> int | None:
        """A pidfd, or None if that process ended (or the pid is somebody else's now)."""
        try:
            fd = pidfd.open_pidfd(self.pid)
        except OSError:
            return None
        if ProcessRef.of_pidfd(fd, self.pid) == self and pidfd.is_alive(fd):
            return fd
        os.close(fd)
        return None

    def as_list(self) -> list[int]:
        return [self.pid, self.birth]

    @classmethod
    def from_list(cls, value: Any) -> ProcessRef | None:
        return cls(int(value[0]), int(value[1])) if value else None


@dataclass(slots=True)
class SessionRecord:
    """`in_place`: path of the cgroup that was adopted where it is, and `was` what its files
    said before, to be written back; `container`: whose cgroup it is."""

    name: str
    spec: SessionSpec
    mode: Mode
    cgroup: CgroupLike
    agent: CgroupLike
    tools: CgroupLike
    created_epoch_s: float
    containment: str = "advisory"
    containment_reason: str = ""
    bound_agent: ProcessRef | None = None
    origin: str | None = None
    pids_max: int = 4096
    reserve_bytes: int = 0
    in_place: str | None = None
    was: dict[str, str] = field(default_factory=dict)
    container: str | None = None
    paused: bool = False
    background: CgroupLike | None = None
    ending: bool = False
    oom_counts: tuple[int, int, int] = (0, 0, 0)
    needs_care: bool = True
    many_dying: bool = False
    steps: int = 0
    energy_j: float | None = None
    calls: dict[str, CallRecord] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> SessionKind:
        return self.spec.kind

    def to_xattr(self) -> bytes:
        return _dump(
            {
                "name": self.name,
                "spec": self.spec.describe(),
                "priority": self.spec.priority.value,
                "mode": self.mode.value,
                "created_epoch_s": self.created_epoch_s,
                "containment": self.containment,
                "containment_reason": self.containment_reason,
                "agent": self.bound_agent.as_list() if self.bound_agent else None,
                "origin": self.origin,
                "pids_max": self.pids_max,
                "reserve_bytes": self.reserve_bytes,
                "in_place": self.in_place,
                "was": self.was,
                "container": self.container,
                "boot": boot_id(),
            }
        )


@dataclass(slots=True)
class CallRecord:
    """One tool call from its begin to its outcome. Times: ns monotonic unless named.

    `shell`: the persistent shell whose commands are placed, which itself is not."""

    name: str
    session: str
    key: str
    intent: Intent
    owner: ProcessRef
    child: ProcessRef | None
    begun_ns: int
    began_epoch_s: float
    shell: ProcessRef | None = None
    leaf: CgroupLike | None = None
    limits: Limits = field(default_factory=Limits)
    learned_bytes: int | None = None
    replanned: bool = False
    owner_pidfd: int = -1
    owner_watched: bool = False
    placed_ns: int | None = None
    waited_ms: float = 0.0
    frozen_ns: int = 0
    frozen_since_ns: int | None = None
    killed: Reason | None = None
    because: Because | None = None
    biggest: BiggestProcess | None = None
    child_exit: tuple[int | None, int | None] | None = None
    high_since_raise: bool = False
    raised_unasked: bool = False
    at_line_ns: int = 0
    last_current_bytes: int = 0
    looked_ns: int = 0
    stat_looked_ns: int = 0
    owed: bool = False
    sample_interval_ns: int = 0
    next_sample_ns: int = 0
    oom_before: tuple[int, int, int] = (0, 0, 0)
    ending: asyncio.Future[Any] | None = None
    admitted: asyncio.Future[Any] | None = None

    @property
    def was_seen(self) -> bool:
        """Nobody declared it: the exec boundary placed the command, which is its own owner."""
        return self.child == self.owner

    def save(self) -> None:
        """Into the tree, so that a successor of this daemon knows it. Never in the way of
        what is done next: a figure too old is better than a kill that was left out."""
        if self.leaf is None:
            return
        try:
            self.leaf.set_xattr(CALL_XATTR, self.to_xattr())
        except CgroupGoneError:
            return
        except OSError as error:
            warn_once(_log, f"cannot save what is known of calls: {error.strerror}")

    def watch_owner(
        self, loop: asyncio.AbstractEventLoop, ended: Callable[[CallRecord], None]
    ) -> None:
        if self.owner_pidfd >= 0 and not self.owner_watched:
            self.owner_watched = True
            loop.add_reader(self.owner_pidfd, ended, self)

    def unwatch_owner(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.owner_watched:
            loop.remove_reader(self.owner_pidfd)
            self.owner_watched = False

    def close_owner(self, loop: asyncio.AbstractEventLoop) -> None:
        self.unwatch_owner(loop)
        if self.owner_pidfd >= 0:
            os.close(self.owner_pidfd)
            self.owner_pidfd = -1

    def note_thawed(self, now_ns: int) -> None:
        """It ran again at `now_ns`, if it stood still."""
        if self.frozen_since_ns is not None:
            self.frozen_ns += max(0, now_ns - self.frozen_since_ns)
            self.frozen_since_ns = None

    def to_xattr(self) -> bytes:
        return _dump(
            {
                "key": self.key,
                "intent": self.intent.model_dump(mode="json", exclude_none=True),
                "owner": self.owner.as_list(),
                "child": self.child.as_list() if self.child else None,
                "shell": self.shell.as_list() if self.shell else None,
                "began_epoch_s": self.began_epoch_s,
                "begun_ns": self.begun_ns,
                "placed_ns": self.placed_ns,
                "waited_ms": self.waited_ms,
                "oom_before": list(self.oom_before),
                "killed": self.killed.value if self.killed else None,
                "because": _because_as_list(self.because),
                "frozen_ns": self.frozen_ns,
                "frozen_since_ns": self.frozen_since_ns,
                "boot": boot_id(),
            }
        )


def load_because(value: Any) -> Because | None:
    return Because(Code(value[0]), str(value[1]), dict(value[2])) if value else None


def _because_as_list(because: Because | None) -> list[Any] | None:
    return [because.code, because.text, dict(because.figures)] if because else None


def boot_id() -> str:
    """Pids and monotonic times mean nothing after a reboot."""
    global _boot_id  # noqa: PLW0603  (read once: it can't change while we live)
    if not _boot_id:
        _boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return _boot_id


_boot_id = ""


def load_xattr(cgroup: CgroupLike, name: str) -> dict[str, Any] | None:
    """The record of this boot, or None (also for one that can't be read)."""
    raw = cgroup.get_xattr(name)
    if raw is None:
        return None
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("boot") != boot_id():
        return None
    return value


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
