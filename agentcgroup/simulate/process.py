# SPDX-License-Identifier: Apache-2.0
"""One simulated tool call: a process that follows a list of memory levels. Bytes, ns.

It waits until a level's time has come, then grows to it at a steady speed as far as its
line allows, or gives back at once. Nothing is stepped: a process knows when it will be
at its next turn, and `settle` brings it to any time before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..types.intents import Intent

__all__ = ["NO_LINE_BYTES", "CallPlan", "Process", "SessionPlan"]

NO_LINE_BYTES = 1 << 60


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

    def later(self, by_ns: int) -> CallPlan:
        return CallPlan(self.begin_ns + by_ns, self.levels, self.base_bytes, self.intent)

    @property
    def peak_bytes(self) -> int:
        return self.base_bytes + max(size for _, size in self.levels)

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.levels[-1][0]


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Calls in order of their begin; each begins at its time, but not before those ended that
    had ended by then. Unless `parallel`, that is all of the earlier ones.

    `agent_levels`: (ns from the session's begin, bytes) that the agent itself holds, late by
    as much as its calls were. `cpu`: (ns, cores) that the session uses from then on.
    `need_bytes` and `mean_bytes` are what a fixed share would be drawn from. `calls` and
    `agent_levels` may be made as they are asked for: they are gone through once.
    """

    name: str
    priority: str
    calls: Iterable[CallPlan]
    reserve_bytes: int = 0
    budget_bytes: int | None = None
    agent_levels: Iterable[tuple[int, int]] = ()
    agent_base_bytes: int = 0
    parallel: bool = False
    cpu: Sequence[tuple[int, float]] = ()
    need_bytes: int = 0
    mean_bytes: int = 0
    trace_peak_bytes: int = 0


@dataclass(slots=True)
class Process:
    """`line_bytes` is memory.high: growth stops there. `speed` is in bytes per ns.

    With `catches_up` time goes on while it stands still, and levels that came late follow
    each other without a pause, as in a replay; without, its work goes on where it stopped.
    """

    plan: CallPlan
    line_bytes: int
    speed: float
    catches_up: bool = True
    held_bytes: float = 0.0
    begun_ns: int | None = None
    reached: int = 0
    frozen: bool = False
    at_line: bool = False
    rate: float = 0.0
    throttled_ns: int = 0
    paused_ns: int = 0
    grew_ns: list[int] = field(default_factory=list)
    _since_ns: int = 0
    _stop_bytes: float = 0.0
    _growing_since_ns: int | None = None

    @property
    def done(self) -> bool:
        return self.reached == len(self.plan.levels)

    @property
    def trace_bytes(self) -> float:
        """What of its memory is the trace's."""
        held = self.held_bytes - self.plan.base_bytes
        return held if held > 0 else 0.0

    def held_at(self, now_ns: int) -> float:
        """What it holds at a time before its next turn."""
        if not self.rate:
            return self.held_bytes
        return min(self._stop_bytes, self.held_bytes + self.rate * (now_ns - self._since_ns))

    def settle(self, now_ns: int) -> None:
        """Account for the time since the last turn."""
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns <= 0:
            return
        self._since_ns = now_ns
        if self.rate:
            self.held_bytes = min(self._stop_bytes, self.held_bytes + self.rate * elapsed_ns)
            return
        if self._growing_since_ns is not None or self.frozen:
            if self.at_line and not self.frozen:
                self.throttled_ns += elapsed_ns
            if not self.catches_up:
                self.paused_ns += elapsed_ns

    def turn(self, now_ns: int, may_grow: bool = True) -> int | None:
        """What it does from now on; when the next turn is due (None: not by itself).

        Call after `settle`. Sets `rate`, `at_line`, and `reached`.
        """
        self._since_ns = max(self._since_ns, now_ns)
        self.rate, self.at_line = 0.0, False
        if self.frozen:
            return None
        base_bytes, levels = self.plan.base_bytes, self.plan.levels
        while True:
            if self.begun_ns is None:
                goal = float(base_bytes)
            elif self.reached == len(levels):
                return None
            else:
                offset_ns, size = levels[self.reached]
                due_ns = self.begun_ns + offset_ns + self.paused_ns
                if due_ns > now_ns:
                    return due_ns
                goal = float(base_bytes + size)
            if self.held_bytes < goal:
                return self._grow(goal, now_ns, may_grow)
            self._arrive(goal, now_ns)

    def _arrive(self, goal: float, now_ns: int) -> None:
        if self._growing_since_ns is not None:
            self.grew_ns.append(now_ns - self._growing_since_ns)
            self._growing_since_ns = None
        if self.begun_ns is None:
            self.begun_ns = now_ns
            return
        self.held_bytes = goal
        self.reached += 1

    def _grow(self, goal: float, now_ns: int, may_grow: bool) -> int | None:
        if self._growing_since_ns is None:
            self._growing_since_ns = now_ns
        self._stop_bytes = min(goal, float(self.line_bytes))
        if self._stop_bytes <= self.held_bytes:
            self.at_line = True
            return None
        if not may_grow:
            return None
        self.rate = self.speed
        return now_ns + max(1, int((self._stop_bytes - self.held_bytes) / self.speed + 1))
