# SPDX-License-Identifier: Apache-2.0
"""What the simulated host is like, and what came out. The model: docs/design/simulator.md."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from ..types.actions import Action

__all__ = ["CallResult", "Decision", "HostModel", "Result", "SessionTotals"]

_MS = 1_000_000
_KEPT_LATENCIES = 4096
_KEPT_POINTS = 4000
_KEPT_DECISIONS = 2000
_KINDS = {kind: kind.__name__.lower() for kind in get_args(Action)}


@dataclass(frozen=True, slots=True)
class HostModel:
    """growth_bytes_per_s: how fast one process touches new memory.
    event_delay_ns: from a call at its line to the daemon that hears of it.
    kill_ns: from a kill to the memory being free.
    cores: CPUs for all sessions; None: CPU is never short.
    catches_up: a process that stood still follows its late levels without a pause (as a replay
        does) instead of going on where it stopped (as real work does).
    kills_at_budget: what would take more than the budget is answered with the OOM killer;
        otherwise the time beyond it is only counted."""

    growth_bytes_per_s: int = 1 << 30
    event_delay_ns: int = 2 * _MS
    kill_ns: int = 30 * _MS
    cores: float | None = None
    catches_up: bool = True
    kills_at_budget: bool = False


@dataclass(slots=True)
class CallResult:
    session: str
    survived: bool = False
    reason: str = ""
    waited_ns: int = 0
    frozen_ns: int = 0
    throttled_ns: int = 0
    grew_ns: list[int] = field(default_factory=list)
    begun_ns: int = 0
    ended_ns: int = 0
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    t_ns: int
    session: str
    call: str
    action: str
    code: str
    text: str


@dataclass(slots=True)
class Timeline:
    """Bytes over time, ever coarser in a long run, so that they never take more room: of what
    comes too soon after the last point only the most is kept. Packed, for there is one a session.
    """

    times_ns: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    _every_ns: int = _MS
    _next_ns: int = -1

    def note(self, now_ns: int, size_bytes: float) -> None:
        if now_ns < self._next_ns:
            if size_bytes > self.sizes[-1]:
                self.sizes[-1] = int(size_bytes)
            return
        self.times_ns.append(now_ns)
        self.sizes.append(int(size_bytes))
        if len(self.sizes) > _KEPT_POINTS:
            pairs = zip(self.sizes[::2], self.sizes[1::2], strict=False)
            self.sizes = array("q", map(max, pairs))
            self.times_ns = self.times_ns[::2][: len(self.sizes)]
            self._every_ns *= 2
        self._next_ns = self.times_ns[-1] + self._every_ns


@dataclass(slots=True)
class SessionTotals:
    """Sums over a session's calls; of latencies a uniform sample where there are many.

    `peak_bytes` is of the trace's own memory, without bases.
    """

    name: str
    priority: str
    trace_peak_bytes: int = 0
    calls: int = 0
    lost: int = 0
    oom_kills: int = 0
    policy_kills: int = 0
    waited_ns: int = 0
    frozen_ns: int = 0
    throttled_ns: int = 0
    peak_bytes: float = 0.0
    end_ns: int | None = None
    planned_ns: int = 0
    reached_end: bool = False
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    latencies_seen: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    kills_ns: list[int] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(0), compare=False)

    @property
    def points(self) -> list[tuple[int, int]]:
        """(ns, bytes) over time."""
        return list(zip(self.timeline.times_ns, self.timeline.sizes, strict=True))

    def note_call(self, call: CallResult) -> None:
        self.lost += not call.survived
        self.waited_ns += call.waited_ns
        self.frozen_ns += call.frozen_ns
        self.throttled_ns += call.throttled_ns
        for latency_ns in call.grew_ns:
            self.latencies_seen += 1
            if len(self.latencies_ns) < _KEPT_LATENCIES:
                self.latencies_ns.append(latency_ns)
            elif (place := self._draw.randrange(self.latencies_seen)) < _KEPT_LATENCIES:
                self.latencies_ns[place] = latency_ns

    def note_memory(self, now_ns: int, trace_bytes: float) -> None:
        self.peak_bytes = max(self.peak_bytes, trace_bytes)
        self.timeline.note(now_ns, trace_bytes)


@dataclass(slots=True)
class Result:
    """`calls` is empty where only sums were asked for. In `overrun_ns` calls and agents
    together held more than the budget. `most_overshoot_bytes`: the most that a call held
    beyond its line, because it grew while the line was lowered. `slowed_ns`: time that
    sessions lost to others' use of the CPU."""

    calls: dict[str, CallResult] = field(default_factory=dict)
    sessions: dict[str, SessionTotals] = field(default_factory=dict)
    actions: Counter[str] = field(default_factory=Counter)
    decisions: list[Decision] = field(default_factory=list)
    decisions_left_out: int = 0
    most_held_bytes: float = 0
    overrun_ns: int = 0
    most_overshoot_bytes: float = 0
    events: int = 0

    @property
    def end_ns(self) -> dict[str, int]:
        return {s.name: s.end_ns for s in self.sessions.values() if s.end_ns is not None}

    @property
    def makespan_ns(self) -> int:
        return max(self.end_ns.values(), default=0)

    @property
    def lost(self) -> list[CallResult]:
        return [call for call in self.calls.values() if not call.survived]

    def note_decision(self, t_ns: int, action: Action) -> None:
        kind = _KINDS[type(action)]
        self.actions[kind] += 1
        if len(self.decisions) >= _KEPT_DECISIONS:
            self.decisions_left_out += 1
            return
        because = action.because
        self.decisions.append(
            Decision(t_ns, action.session, action.call, kind, because.code.value, because.text)
        )
