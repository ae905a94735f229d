# SPDX-License-Identifier: Apache-2.0
"""Where a session's processes run: a plain cgroup, or a session of a live daemon."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..cgroupfs.api import CgroupLike
from ..types.intents import Intent
from .process import start_in, tell_start

__all__ = ["CallEnd", "Place", "PlainPlace", "Shares"]


@dataclass(frozen=True, slots=True)
class CallEnd:
    """None: not known. `ended_ns`: when its process was gone, on CLOCK_MONOTONIC.
    `policy_kill`: the daemon ended it, not the kernel's OOM killer."""

    ended_ns: int

    waited_ms: float | None = 0.0
    throttled_ms: float | None = 0.0
    frozen_ms: float | None = 0.0
    policy_kill: bool = False
    layers: tuple[str, ...] = ()


class Place(Protocol):
    @property
    def cgroup(self) -> CgroupLike:
        """The session's own, parent of whatever the place makes."""
        ...

    def enter(self) -> float:
        """Wait until the session may begin; ms waited."""
        ...

    def leave(self) -> None: ...

    def agent(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start the process that stands for the agent, with pipes."""
        ...

    def call(self, argv: Sequence[str], intent: Intent, due_ns: int) -> CallEnd:
        """Run one process to its end, as one tool call that is due at a time."""
        ...


class Shares:
    """Fixed shares of the total, handed out while they last; first come, first served."""

    def __init__(self, total_bytes: int) -> None:
        self._free_bytes = total_bytes
        self._total_bytes = total_bytes
        self._changed = threading.Condition()
        self._open = True

    def take(self, size_bytes: int) -> None:
        size = min(size_bytes, self._total_bytes)
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._free_bytes >= size)
            self._free_bytes -= size

    def give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._free_bytes += min(size_bytes, self._total_bytes)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


class PlainPlace:
    """One cgroup for the whole session, and nobody who steers."""

    def __init__(
        self,
        cgroup: CgroupLike,
        now_ns: Callable[[], int],
        shares: Shares | None = None,
        share_bytes: int = 0,
    ) -> None:
        self._cgroup = cgroup
        self._now_ns = now_ns
        self._shares = shares
        self._share_bytes = share_bytes

    @property
    def cgroup(self) -> CgroupLike:
        return self._cgroup

    def enter(self) -> float:
        if self._shares is None:
            return 0.0
        begin_ns = self._now_ns()
        self._shares.take(self._share_bytes)
        return (self._now_ns() - begin_ns) / 1e6

    def leave(self) -> None:
        if self._shares is not None:
            self._shares.give_back(self._share_bytes)

    def agent(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        return start_in(self._cgroup.move, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, argv: Sequence[str], intent: Intent, due_ns: int) -> CallEnd:
        with start_in(self._cgroup.move, argv, stdin=subprocess.PIPE, bufsize=0) as process:
            tell_start(process, due_ns)
        return CallEnd(self._now_ns())
