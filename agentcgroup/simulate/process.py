# SPDX-License-Identifier: Apache-2.0
"""One simulated tool call: a process that follows a list of memory levels. Bytes, ns.

It behaves as the replay's worker does: it waits until a level's time has come, then grows
to it as fast as memory is given, or gives back at once. A level that comes late follows
the one before without a pause; a frozen process does nothing, but time goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types.intents import Intent

__all__ = ["CallPlan", "Process", "SessionPlan"]


@dataclass(frozen=True, slots=True)
class CallPlan:
    """`levels`: (ns from the call's begin, bytes); the call ends after the last one.

    `begin_ns` counts from the session's begin; `base_bytes` are held before the first level
    and until the end.
    """

    begin_ns: int
    levels: Sequence[tuple[int, int]]
    base_bytes: int
    intent: Intent

    @property
    def peak_bytes(self) -> int:
        return self.base_bytes + max(size for _, size in self.levels)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Calls one after another: each begins at its time, but not before the last one ended.

    `agent_levels`: (ns from the session's begin, bytes) that the agent itself holds, late by
    as much as its calls were.
    """

    name: str
    priority: str
    calls: Sequence[CallPlan]
    reserve_bytes: int = 0
    budget_bytes: int | None = None
    agent_levels: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class Process:
    """`line_bytes` is memory.high: growth stops there."""

    plan: CallPlan
    line_bytes: int
    held_bytes: int = 0
    begun_ns: int | None = None
    reached: int = 0
    frozen: bool = False
    at_line: bool = False
    throttled_ns: int = 0
    grew_ns: list[int] = field(default_factory=list)
    _growing_since_ns: int | None = None

    @property
    def done(self) -> bool:
        return self.reached == len(self.plan.levels)

    def advance(self, now_ns: int, dt_ns: int, may_grow_bytes: int) -> int:
        """What it took (negative: gave back) in the `dt_ns` before `now_ns`."""
        self.at_line = False
        if self.frozen:
            return 0
        before, left = self.held_bytes, may_grow_bytes
        if self.begun_ns is None:
            left -= self._grow(self.plan.base_bytes, left, now_ns)
            if self.held_bytes < self.plan.base_bytes:
                return self._blocked(before, dt_ns, left)
            self.begun_ns = now_ns
        while not self.done:
            offset_ns, size = self.plan.levels[self.reached]
            if self.begun_ns + offset_ns > now_ns:
                break
            target = self.plan.base_bytes + size
            if target < self.held_bytes:
                self.held_bytes = target
            elif target > self.held_bytes:
                left -= self._grow(target, left, now_ns)
                if self.held_bytes < target:
                    return self._blocked(before, dt_ns, left)
            self.reached += 1
        return self.held_bytes - before

    def _grow(self, target_bytes: int, may_grow_bytes: int, now_ns: int) -> int:
        if self._growing_since_ns is None and self.held_bytes < target_bytes:
            self._growing_since_ns = now_ns
        room = max(0, self.line_bytes - self.held_bytes)
        taken = min(target_bytes - self.held_bytes, may_grow_bytes, room)
        self.held_bytes += taken
        if self.held_bytes >= target_bytes and self._growing_since_ns is not None:
            self.grew_ns.append(now_ns - self._growing_since_ns)
            self._growing_since_ns = None
        return taken

    def _blocked(self, before: int, dt_ns: int, left: int) -> int:
        if left > 0:
            self.at_line = True
            self.throttled_ns += dt_ns
        return self.held_bytes - before
