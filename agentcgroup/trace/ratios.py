# SPDX-License-Identifier: Apache-2.0
"""Policies against each other: ratios of means over runs, with bootstrap intervals. Pure.

Runs are interleaved, so run k of two policies met the same weather: resampling draws
whole runs (pairs). `ci95` is the 2.5th to 97.5th percentile of 2,000 resamples and null
for fewer than two pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ..types.intents import Priority
from .results import RunResult

__all__ = ["BASELINES", "ratio_with_interval", "ratios"]

BASELINES = ("alone", "none", "static")
_RESAMPLES = 2000


def _high(value: Callable[[Any], float | None]) -> Callable[[RunResult], float | None]:
    """The mean of a figure over the sessions of the highest priority present."""

    def of_run(run: RunResult) -> float | None:
        best = min((s.priority.rank for s in run.sessions), default=Priority.HIGH.rank)
        values = [value(s) for s in run.sessions if s.priority.rank == best]
        known = [v for v in values if v is not None]
        return fmean(known) if known and len(known) == len(values) else None

    return of_run


METRICS: dict[str, Callable[[RunResult], float | None]] = {
    "makespan_s": lambda run: run.makespan_s,
    "high_completion_s": _high(lambda s: s.completion_s),
    "high_alloc_p95_ms": _high(lambda s: s.p95_ms if s.survived else None),
    "survived": lambda run: float(run.survivors),
}


def ratio_with_interval(
    pairs: Sequence[tuple[float, float]], draw: random.Random
) -> tuple[float, list[float] | None]:
    """mean(first) / mean(second) and its 95 % interval; the second mean must not be 0."""
    value = fmean(a for a, _ in pairs) / fmean(b for _, b in pairs)
    if len(pairs) < 2:
        return value, None
    values: list[float] = []
    for _ in range(_RESAMPLES):
        again = draw.choices(pairs, k=len(pairs))
        below = fmean(b for _, b in again)
        if below > 0:
            values.append(fmean(a for a, _ in again) / below)
    values.sort()
    if not values:
        return value, None
    return value, [values[int(0.025 * len(values))], values[int(0.975 * len(values))]]


def ratios(runs: Sequence[RunResult], seed: int) -> list[dict[str, Any]]:
    """Every metric of every policy against each baseline that was run."""
    by_policy: dict[str, dict[int, RunResult]] = {}
    for run in runs:
        by_policy.setdefault(run.policy, {})[run.run] = run
    rows: list[dict[str, Any]] = []
    for baseline in BASELINES:
        for policy in by_policy:
            if baseline in by_policy and policy != baseline:
                rows += _compare(policy, baseline, by_policy, seed)
    return rows


def _compare(
    policy: str, baseline: str, by_policy: dict[str, dict[int, RunResult]], seed: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for metric, of_run in METRICS.items():
        pairs = [
            (a, b)
            for number, run in by_policy[policy].items()
            if number in by_policy[baseline]
            and (a := of_run(run)) is not None
            and (b := of_run(by_policy[baseline][number])) is not None
        ]
        if not pairs or fmean(b for _, b in pairs) <= 0:
            continue
        draw = random.Random(f"{seed}/{metric}/{policy}/{baseline}")
        value, interval = ratio_with_interval(pairs, draw)
        rows.append(
            {
                "metric": metric,
                "policy": policy,
                "baseline": baseline,
                "ratio": value,
                "ci95": interval,
                "pairs": len(pairs),
            }
        )
    return rows
