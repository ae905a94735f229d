# SPDX-License-Identifier: Apache-2.0
"""A simulated run in the same shape as a replayed one: policy by name in, RunResult out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ..errors import InvalidValueError
from ..trace.jobs import DeclaredIntent, Granularity, SessionJob
from ..trace.results import RunResult, SessionResult, survived
from ..types.intents import Priority
from ..types.sessions import Mode
from .governor import Governor, NoGovernor, ShareGovernor
from .governor_clairvoyant import ClairvoyantGovernor
from .governor_daemon import DaemonGovernor
from .host import HostModel, Result, SessionTotals
from .plans import session_plans
from .process import SessionPlan
from .world import World

__all__ = ["SimulatedPolicy", "SimulationOptions", "make_governor", "simulate_policy"]

_SHOWN_DECISIONS = 300
_TELLING = ("wait", "refuse", "freeze", "thaw", "kill", "terminate", "reclaim")


class SimulatedPolicy(StrEnum):
    """As in a replay, and `clairvoyant`: who knows what every begun call will need."""

    NONE = "none"
    STATIC = "static"
    STATIC_PEAK = "static-peak"
    STATIC_MEAN = "static-mean"
    AGENTCGROUP = "agentcgroup"
    CLAIRVOYANT = "clairvoyant"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """`limit_s`: simulated time after which a run is given up."""

    total_memory_bytes: int
    speed: float = 50.0
    base_memory_bytes: int = 100 << 20
    granularity: Granularity = Granularity.SESSION
    intent: DeclaredIntent = DeclaredIntent.NONE
    mode: Mode = Mode.ENFORCE
    seed: int = 0
    host: HostModel = field(default_factory=lambda: HostModel(kills_at_budget=True))
    limit_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 10_000:
            raise InvalidValueError("--speed", self.speed, "write a factor above 0, such as 10")
        if self.total_memory_bytes < 16 << 20:
            raise InvalidValueError(
                "--total-memory", self.total_memory_bytes, "a simulation needs at least 16M"
            )


def simulate_policy(
    policy: SimulatedPolicy, jobs: Sequence[SessionJob], options: SimulationOptions, *, run: int = 1
) -> RunResult:
    """Deterministic: the same jobs and options give the same result."""
    groups = [[job] for job in jobs] if policy is SimulatedPolicy.ALONE else [list(jobs)]
    worlds = [_play(policy, group, options) for group in groups]
    sessions = [
        _session_result(job, result.sessions[job.name])
        for group, result in zip(groups, worlds, strict=True)
        for job in group
    ]
    return RunResult(
        run=run,
        policy=policy.value,
        layers=["simulated"],
        seed=options.seed,
        sessions=sessions,
        settings={
            "granularity": options.granularity.value,
            "intent": options.intent.value,
            "mode": options.mode.value,
            "total_memory_bytes": options.total_memory_bytes,
            "base_memory_bytes": options.base_memory_bytes,
            "speed": options.speed,
            "most_held_bytes": int(max(result.most_held_bytes for result in worlds)),
        },
        decisions=[d for result in worlds for d in _decisions(result)][:_SHOWN_DECISIONS],
    )


def make_governor(
    policy: SimulatedPolicy, plans: Sequence[SessionPlan], total_bytes: int, mode: Mode
) -> Governor:
    if policy is SimulatedPolicy.AGENTCGROUP:
        return DaemonGovernor(mode=mode)
    if policy is SimulatedPolicy.CLAIRVOYANT:
        return ClairvoyantGovernor()
    if policy is SimulatedPolicy.STATIC:
        each = total_bytes // max(1, len(plans))
        return ShareGovernor({plan.name: each for plan in plans}, total_bytes, waits=False)
    if policy is SimulatedPolicy.STATIC_PEAK:
        return ShareGovernor({p.name: p.need_bytes for p in plans}, total_bytes, waits=True)
    if policy is SimulatedPolicy.STATIC_MEAN:
        return ShareGovernor({p.name: p.mean_bytes for p in plans}, total_bytes, waits=True)
    return NoGovernor()


def _play(policy: SimulatedPolicy, jobs: list[SessionJob], options: SimulationOptions) -> Result:
    plans = session_plans(jobs, options.speed)
    if options.host.cores is None:
        plans = [replace(plan, cpu=()) for plan in plans]
    governor = make_governor(policy, plans, options.total_memory_bytes, options.mode)
    world = World(options.total_memory_bytes, plans, governor=governor, host=options.host)
    return world.run(options.limit_s)


def _session_result(job: SessionJob, totals: SessionTotals) -> SessionResult:
    found = SessionResult(job.name, job.priority, job.trace.peak_bytes)
    assert Priority(totals.priority) is job.priority
    peak = int(totals.peak_bytes)
    if totals.reached_end and job.agent is not None:
        # Every process held its levels, so those of overlapping calls add up to the trace's.
        peak = max(peak, job.trace.peak_bytes)
    found.calls, found.calls_lost = len(job.calls), totals.lost + len(job.calls) - totals.calls
    found.peak_memory_bytes = peak
    found.survived = survived(totals.reached_end, peak, job.trace.peak_bytes)
    found.ended_s = (totals.end_ns or 0) / 1e9
    found.completion_s = found.ended_s if totals.reached_end else None
    found.timed_out = totals.end_ns is None
    found.oom_kills, found.policy_kills = totals.oom_kills, totals.policy_kills
    found.waited_ms = totals.waited_ns / 1e6
    found.throttled_ms = totals.throttled_ns / 1e6
    found.frozen_ms = totals.frozen_ns / 1e6
    found.latencies_ms = [latency / 1e6 for latency in totals.latencies_ns]
    found.timeline = [(at_ns / 1e9, size) for at_ns, size in totals.points]
    found.kill_times_s = [at_ns / 1e9 for at_ns in totals.kills_ns]
    return found


def _decisions(result: Result) -> list[dict[str, object]]:
    """Those that hold somebody up or end somebody; grants that follow growth are too many."""
    return [
        {
            "t_s": round(d.t_ns / 1e9, 4), "session": d.session, "call": d.call,
            "action": d.action, "reason": d.code, "text": d.text,
        }
        for d in result.decisions
        if d.action in _TELLING
    ]  # fmt: skip
