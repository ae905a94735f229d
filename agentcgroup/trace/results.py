# SPDX-License-Identifier: Apache-2.0
"""What a replay measured, and its JSON (schema 1). Absent figures are null, never 0.

Percentiles as in the AgentCgroup authors' replay: p50 = sorted[n//2]; p95 =
sorted[int(0.95 n)] from 20 values on; p99 = sorted[int(0.99 n)] from 100 values on;
with fewer values the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..types.intents import Priority

__all__ = ["RunResult", "SessionResult", "latency_summary", "survived", "thin_timeline"]

SCHEMA = 1
MOST_POINTS = 600
# What a session must have held, of its trace's peak, to count as survived.
PEAK_SHARE = 0.99


def latency_summary(values_ms: Sequence[float]) -> dict[str, float | int | None]:
    """p50, p95, p99, max in ms and the count; null without values."""
    if not values_ms:
        return {"p50": None, "p95": None, "p99": None, "max": None, "count": 0}
    ranked = sorted(values_ms)
    n = len(ranked)
    return {
        "p50": ranked[n // 2],
        "p95": ranked[int(0.95 * n)] if n >= 20 else ranked[-1],
        "p99": ranked[int(0.99 * n)] if n >= 100 else ranked[-1],
        "max": ranked[-1],
        "count": n,
    }


def thin_timeline(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most some hundred points; of those that are put together the highest counts."""
    size = -(-len(points) // MOST_POINTS) if points else 1
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[0][0], max(bytes_ for _, bytes_ in group)) for group in groups]


def survived(reached_last: bool, peak_bytes: int, trace_peak_bytes: int) -> bool:
    return reached_last and peak_bytes >= PEAK_SHARE * trace_peak_bytes


@dataclass(slots=True)
class SessionResult:
    """`peak_memory_bytes` is what the replay itself held, without base memory; of
    `completion_s` (from the common start) and the waits None means not known."""

    name: str
    priority: Priority
    trace_peak_bytes: int
    survived: bool = False
    completion_s: float | None = None
    oom_kills: int | None = None
    policy_kills: int = 0
    calls: int = 0
    calls_lost: int = 0
    peak_memory_bytes: int = 0
    cgroup_peak_bytes: int | None = None
    waited_ms: float | None = None
    throttled_ms: float | None = None
    frozen_ms: float | None = None
    pressure_some_ms: float | None = None
    pressure_full_ms: float | None = None
    ended_s: float = 0.0
    timed_out: bool = False
    latencies_ms: list[float] = field(default_factory=list)
    timeline: list[tuple[float, int]] = field(default_factory=list)
    kill_times_s: list[float] = field(default_factory=list)

    @property
    def p95_ms(self) -> float | None:
        return latency_summary(self.latencies_ms)["p95"]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "priority": self.priority.value,
            "survived": self.survived,
            "completion_s": self.completion_s,
            "oom_kills": self.oom_kills,
            "policy_kills": self.policy_kills,
            "calls": self.calls,
            "calls_lost": self.calls_lost,
            "peak_memory_bytes": self.peak_memory_bytes,
            "trace_peak_bytes": self.trace_peak_bytes,
            "cgroup_peak_bytes": self.cgroup_peak_bytes,
            "waited_ms": self.waited_ms,
            "throttled_ms": self.throttled_ms,
            "frozen_ms": self.frozen_ms,
            "memory_pressure_some_ms": self.pressure_some_ms,
            "memory_pressure_full_ms": self.pressure_full_ms,
            "timed_out": self.timed_out,
            "alloc_latency_ms": latency_summary(self.latencies_ms),
            "timeline": [[round(at_s, 4), size] for at_s, size in thin_timeline(self.timeline)],
            "kill_times_s": [round(at_s, 4) for at_s in self.kill_times_s],
        }


@dataclass(slots=True)
class RunResult:
    """One policy once. `makespan_s`: until the last session ended, however it ended.
    `decisions`: what was decided and why, where it is known (simulated runs)."""

    run: int
    policy: str
    layers: list[str]
    seed: int
    sessions: list[SessionResult]
    settings: dict[str, Any] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def makespan_s(self) -> float:
        return max((session.ended_s for session in self.sessions), default=0.0)

    @property
    def survivors(self) -> int:
        return sum(session.survived for session in self.sessions)

    @property
    def kills(self) -> int:
        return sum((s.oom_kills or 0) + s.policy_kills for s in self.sessions)

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "policy": self.policy,
            "layers": self.layers,
            "seed": self.seed,
            "makespan_s": self.makespan_s,
            **self.settings,
            "sessions": [session.as_json() for session in self.sessions],
            **({"decisions": self.decisions} if self.decisions else {}),
        }
