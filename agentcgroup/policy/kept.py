# SPDX-License-Identifier: Apache-2.0
"""Sums over sessions that follow each change, so that a question about all of them costs the
same however many there are. Bytes.

`accounting` computes a session's part and asks for the sums; the state says which session
changed. Only when a session becomes active or idle do all shares change, and all parts with
them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Kept", "Part", "Runner"]

_RANKS = 3
_FEW = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Of one active session: what is kept for it from lower ones that grow, and that are
    settled; whether it holds more than its share."""

    rank: int
    growing_bytes: int
    settled_bytes: int
    is_beyond_share: bool


class Runner(Protocol):
    """A call; `counted_rank` is that of its session while it runs, else -1."""

    name: str
    session: str
    begun_ns: int
    counted_rank: int


@dataclass(slots=True)
class Kept:
    """`changed`: sessions whose part is to be computed again; `all_changed`: every one's."""

    all_changed: bool = True
    changed: set[str] = field(default_factory=set)
    parts: dict[str, Part] = field(default_factory=dict)
    growing_bytes: list[int] = field(default_factory=lambda: [0] * _RANKS)
    settled_bytes: list[int] = field(default_factory=lambda: [0] * _RANKS)
    beyond_share: list[int] = field(default_factory=lambda: [0] * _RANKS)
    _entries: int = 0
    _most: list[int] = field(default_factory=lambda: [_FEW] * _RANKS)
    _running: list[list[tuple[int, str, str, int, Runner]]] = field(
        default_factory=lambda: [[] for _ in range(_RANKS)]
    )

    def put(self, name: str, part: Part | None) -> None:
        """The session's part from now on; None: it has none any more."""
        old = self.parts.pop(name, None)
        if old is not None:
            self._add(old, -1)
        if part is not None:
            self.parts[name] = part
            self._add(part, 1)

    def forget(self) -> None:
        self.parts.clear()
        for sums in (self.growing_bytes, self.settled_bytes, self.beyond_share):
            sums[:] = [0] * _RANKS

    def note_running(self, call: Runner) -> None:
        running = self._running[call.counted_rank]
        self._entries += 1
        entry = (call.begun_ns, call.session, call.name, self._entries, call)
        heapq.heappush(running, entry)
        if len(running) > self._most[call.counted_rank]:
            # Calls that ended below one that runs for days.
            running[:] = [one for one in running if one[-1].counted_rank == call.counted_rank]
            heapq.heapify(running)
            self._most[call.counted_rank] = max(_FEW, 2 * len(running))

    def eldest(self, rank: int) -> Runner | None:
        """Of that rank the running call that began first. Those that ended are dropped here."""
        running = self._running[rank]
        while running and running[0][-1].counted_rank != rank:
            heapq.heappop(running)
        return running[0][-1] if running else None

    def _add(self, part: Part, sign: int) -> None:
        self.growing_bytes[part.rank] += sign * part.growing_bytes
        self.settled_bytes[part.rank] += sign * part.settled_bytes
        self.beyond_share[part.rank] += sign * part.is_beyond_share
