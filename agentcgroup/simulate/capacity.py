# SPDX-License-Identifier: Apache-2.0
"""How many agents fit a host. Needs numpy. Definitions: docs/design/capacity.md.

Agents are drawn as the AgentCgroup paper draws them: traces with replacement, each
stretched to 100 points and begun at a random one of them, in a row of 200. What fits is
asked of the sums of these rows (fixed peaks, clairvoyant) or of simulated runs of the
same draws (the others).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from ..trace.jobs import SessionJob
from ..trace.model import SessionTrace
from ..types.sessions import Mode
from .host import HostModel
from .plans import cpu_levels, session_plan
from .process import SessionPlan
from .run import SimulatedPolicy, make_governor
from .world import World

__all__ = ["POINTS", "CapacityHost", "Cell", "Target", "capacity", "drawn", "wilson_interval"]

POINTS = 100
Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CapacityHost:
    """`cores` None: memory alone decides."""

    memory_bytes: int
    cores: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What counts as fitting: no more than `max_kills` a draw, sessions on average no more than
    `max_slowdown` times as long, in `share` of the draws. `draws` for sums, `runs` of the
    same draws for simulations."""

    max_slowdown: float = 1.05
    max_kills: int = 0
    share: float = 0.95
    draws: int = 200
    runs: int = 3
    seed: int = 42


@dataclass(slots=True)
class Point:
    agents: int
    draws: int
    ok_draws: int
    slowdown_mean: float | None = None
    slowdown_p95: float | None = None
    kills: float | None = None
    waited_s: float | None = None


@dataclass(slots=True)
class Cell:
    """The most agents of one policy on one host, with every number that was tried."""

    memory_bytes: int
    cores: float | None
    policy: str
    agents: int = 0
    at: Point | None = None
    curve: list[Point] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        if self.at is not None:
            found["ok_share_ci95"] = wilson_interval(self.at.ok_draws, self.at.draws)
        return found


def wilson_interval(successes: int, trials: int) -> list[float]:
    """95 % interval of a share (Wilson)."""
    z = 1.959964
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half /= 1 + z * z / trials
    return [min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))]


def capacity(
    policy: SimulatedPolicy, jobs: Sequence[SessionJob], host: CapacityHost, target: Target
) -> Cell:
    """The largest number of agents that fits; found by halving, so a host on which more
    agents fit than fewer would be misjudged."""
    cell = Cell(host.memory_bytes, host.cores, policy.value)
    if policy in (SimulatedPolicy.CLAIRVOYANT, SimulatedPolicy.STATIC_PEAK):
        rows = _Rows([job.trace for job in jobs], peaks=policy is SimulatedPolicy.STATIC_PEAK)

        def tried(agents: int) -> Point:
            return rows.tried(agents, host, target)

        precision = 1
    else:
        fleet = _Fleet(jobs, policy)

        def tried(agents: int) -> Point:
            return fleet.tried(agents, host, target)

        precision = 0
    _search(cell, tried, target, precision)
    return cell


def _search(cell: Cell, tried: Callable[[int], Point], target: Target, precision: int) -> None:
    """Doubles until it does not fit, then halves; to 1 agent, or to 2 % where each try is dear."""

    def fits(agents: int) -> bool:
        point = tried(agents)
        cell.curve.append(point)
        good = point.ok_draws >= target.share * point.draws
        if good and agents > cell.agents:
            cell.agents, cell.at = agents, point
        return good

    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    while high - low > (precision or max(1, high // 50)):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    cell.curve.sort(key=lambda point: point.agents)


def drawn(traces: int, agents: int, count: int, seed: int) -> list[tuple[Any, list[int]]]:
    """Of each draw: which trace each agent plays, and in which hundredth it begins."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.choice(traces, size=agents, replace=True),
            [int(rng.integers(0, POINTS)) for _ in range(agents)],
        )
        for _ in range(count)
    ]


class _Rows:
    """Sums of rows: what is held and used if nobody is ever held up."""

    def __init__(self, traces: Sequence[SessionTrace], *, peaks: bool) -> None:
        self._memory = np.array([_memory_row(trace) for trace in traces])
        if peaks:
            self._memory = np.repeat(self._memory.max(axis=1, keepdims=True), POINTS, axis=1)
        self._peaks = peaks
        self._cpu = np.array([_cpu_row(trace) for trace in traces])

    def tried(self, agents: int, host: CapacityHost, target: Target) -> Point:
        """A fixed peak is held whenever the agent is there, or not: so all peaks add up."""
        good = 0
        for chosen, offsets in drawn(len(self._memory), agents, target.draws, target.seed):
            if self._peaks:
                most = float(self._memory[chosen, 0].sum())
            else:
                most = float(_overlaid(self._memory, chosen, offsets).max())
            fits = most <= host.memory_bytes
            if fits and host.cores is not None:
                fits = float(_overlaid(self._cpu, chosen, offsets).max()) <= host.cores
            good += fits
        return Point(agents, target.draws, good)


def _overlaid(rows: Rows, chosen: Any, offsets: Sequence[int]) -> Rows:
    total = np.zeros(2 * POINTS)
    for index, offset in zip(chosen, offsets, strict=True):
        total[offset : offset + POINTS] += rows[index]
    return total


def _memory_row(trace: SessionTrace) -> Rows:
    sizes = [size for _, size in trace.samples]
    return np.interp(np.linspace(0, 1, POINTS), np.linspace(0, 1, len(sizes)), sizes)


def _cpu_row(trace: SessionTrace) -> Rows:
    """Cores used in each hundredth of the trace."""
    if len(trace.cpu_samples) < 2:
        return np.zeros(POINTS)
    at, spent = np.array(trace.cpu_samples).T
    edges = np.linspace(at[0], at[-1], POINTS + 1)
    steps: Rows = np.diff(np.interp(edges, at, spent)) / (edges[1] - edges[0])
    return steps


class _Fleet:
    """Simulated runs of the draws: every trace stretched to the mean duration."""

    def __init__(self, jobs: Sequence[SessionJob], policy: SimulatedPolicy) -> None:
        self._policy = policy
        self._length_s = fmean(job.trace.duration_s for job in jobs)
        self._plans = [self._stretched(job) for job in jobs]

    def _stretched(self, job: SessionJob) -> SessionPlan:
        speed = job.trace.duration_s / self._length_s
        return replace(session_plan(job, speed, 0), cpu=cpu_levels(job.trace, speed))

    def tried(self, agents: int, host: CapacityHost, target: Target) -> Point:
        runs = [
            self._run(chosen, offsets, host, target)
            for chosen, offsets in drawn(len(self._plans), agents, target.runs, target.seed)
        ]
        good = sum(
            kills <= target.max_kills and fmean(slow) <= target.max_slowdown
            for slow, kills, _ in runs
        )
        slowdowns = sorted(value for slow, _, _ in runs for value in slow)
        return Point(
            agents, len(runs), good, fmean(slowdowns), slowdowns[int(0.95 * (len(slowdowns) - 1))],
            fmean(kills for _, kills, _ in runs), fmean(waited_s for _, _, waited_s in runs),
        )  # fmt: skip

    def _run(
        self, chosen: Any, offsets: Sequence[int], host: CapacityHost, target: Target
    ) -> tuple[list[float], int, float]:
        """Slowdown of each session, kills, and seconds that calls waited or were frozen. A run
        that has missed the target already is not played to its end: its figures are minima."""
        begins = [offset / POINTS * self._length_s for offset in offsets]
        plans = [
            _begun_at(self._plans[index], f"agent-{number}", int(begin_s * 1e9))
            for number, (index, begin_s) in enumerate(zip(chosen, begins, strict=True))
        ]
        model = HostModel(cores=host.cores, catches_up=False, kills_at_budget=True)
        world = World(
            host.memory_bytes, plans, host=model, keep_calls=False,
            governor=make_governor(self._policy, plans, host.memory_bytes, mode=Mode.ENFORCE),
        )  # fmt: skip
        allowed_ns = (target.max_slowdown - 1) * self._length_s * 1e9 * len(plans)

        def hopeless() -> bool:
            kills = sum(s.oom_kills + s.policy_kills for s in world.result.sessions.values())
            return kills > target.max_kills or sum(_late_ns(world)) > allowed_ns

        result = world.run(limit_s=4 * self._length_s, hopeless=hopeless)
        slowdowns = [1 + late_ns / 1e9 / self._length_s for late_ns in _late_ns(world)]
        everybody = result.sessions.values()
        kills = sum(s.oom_kills + s.policy_kills for s in everybody)
        return slowdowns, kills, sum(s.waited_ns + s.frozen_ns for s in everybody) / 1e9


def _late_ns(world: World) -> list[int]:
    """Of each session: by how much it ended, or is by now, later than planned."""
    found = []
    for session in world.sessions.values():
        totals = session.totals
        if totals.end_ns is not None:
            found.append(max(0, totals.end_ns - totals.planned_ns))
            continue
        running = [world.now_ns - call.plan.end_ns for call in session.calls.values()]
        found.append(max(0, session.late_ns, *running))
    return found


def _begun_at(plan: SessionPlan, name: str, begin_ns: int) -> SessionPlan:
    return replace(
        plan, name=name, calls=[call.later(begin_ns) for call in plan.calls],
        agent_levels=[(at_ns + begin_ns, size) for at_ns, size in plan.agent_levels],
        cpu=[(at_ns + begin_ns, cores) for at_ns, cores in plan.cpu],
    )  # fmt: skip
