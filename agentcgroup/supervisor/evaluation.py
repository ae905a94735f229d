# SPDX-License-Identifier: Apache-2.0
"""What stopping saves and what it costs, over recorded runs whose end is known.

waste_saved, basis `steps` (the headline): of the energy that the steps of failed runs took,
the share that is not spent. A stop counts only before a run's last step. What stopped
successes had spent until then is waste and counts against it (W in the paper: energy up to
the stop of *all* stopped runs, plus that of failed runs not stopped).
basis `paper`: the same with whole-run totals, which hold energy that no step accounts for.
utility_drop: stopped successes over successes. Energies in joules; a run with a step of
unknown energy counts for the drop, not for the energy.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..errors import FormatError
from .calibration import clopper_pearson_upper
from .trajectories import Run

__all__ = [
    "Figures",
    "answer_charge_j",
    "auc",
    "auc_by_step",
    "figures",
    "intervals",
    "percentiles",
    "success_of",
]

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Figures:
    """Fractions; None where there is no waste or no success to compare with."""

    waste_saved: float | None
    utility_drop: float | None
    n_runs: int
    n_success: int
    n_false_stops: int
    n_unknown_energy: int


@dataclass(frozen=True, slots=True)
class _Ledger:
    """One run in joules: `wasted` without stopping (0 of a success), `saved` by it."""

    success: bool
    stopped: bool
    wasted: float | None
    saved: float | None


def success_of(run: Run) -> bool:
    if run.success is None:
        raise FormatError(f"{run.id}: success", None, "label every run true or false")
    return run.success


def figures(
    runs: Sequence[Run],
    stops: Sequence[int | None],
    *,
    basis: str = "steps",
    charge_j: float = 0.0,
) -> Figures:
    """`stops`: steps made when each run was stopped. `charge_j`: what asking for an answer
    costs, added at each stop."""
    return _sum(_ledgers(runs, stops, basis, charge_j))


def intervals(
    runs: Sequence[Run],
    stops: Sequence[int | None],
    *,
    seed: int,
    basis: str = "steps",
    charge_j: float = 0.0,
) -> tuple[list[float] | None, list[float] | None]:
    """95 % intervals of waste_saved (bootstrap over runs) and utility_drop (Clopper-Pearson)."""
    ledgers = _ledgers(runs, stops, basis, charge_j)
    total = _sum(ledgers)
    drop = None
    if total.n_success:
        drop = _exact_interval(total.n_false_stops, total.n_success)
    if total.waste_saved is None:
        return None, drop
    known = [ledger for ledger in ledgers if ledger.wasted is not None]
    dice = random.Random(seed)
    shares = []
    for _ in range(RESAMPLES):
        drawn = dice.choices(known, k=len(known))
        wasted = sum(ledger.wasted or 0.0 for ledger in drawn)
        if wasted > 0:
            shares.append(sum(ledger.saved or 0.0 for ledger in drawn) / wasted)
    return percentiles(shares), drop


def percentiles(values: Sequence[float]) -> list[float]:
    """The middle 95 %."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [ordered[round(0.025 * last)], ordered[round(0.975 * last)]]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Chance that a positive scores above a negative, ties half; None without both."""
    if not positive or not negative:
        return None
    ranked = sorted([(score, 1) for score in positive] + [(score, 0) for score in negative])
    rank_sum, at = 0.0, 0
    while at < len(ranked):
        tied = at
        while tied < len(ranked) and ranked[tied][0] == ranked[at][0]:
            tied += 1
        rank_sum += sum(label for _, label in ranked[at:tied]) * (at + tied + 1) / 2
        at = tied
    pairs = len(positive) * len(negative)
    return (rank_sum - len(positive) * (len(positive) + 1) / 2) / pairs


def auc_by_step(
    runs: Sequence[Run], scores: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """AUC of "fails" at each step, over the runs that go on after it (as in the paper)."""
    found = []
    for step in range(max((len(run.steps) for run in runs), default=1) - 1):
        going = [
            (run, told[step]) for run, told in zip(runs, scores, strict=True)
            if len(run.steps) > step + 1
        ]  # fmt: skip
        fails = [score for run, score in going if score is not None and not run.success]
        wins = [score for run, score in going if score is not None and run.success]
        found.append(auc(fails, wins))
    return found


def answer_charge_j(runs: Sequence[Run]) -> float | None:
    """What asking for an answer at once costs: median energy of the last step of the longest
    runs, in which the harness asked for it (AgentStop's runs of 11 steps)."""
    longest = max((len(run.steps) for run in runs), default=0)
    known = [
        run.step_energy_j[-1] for run in runs
        if len(run.steps) == longest and run.step_energy_j[-1] is not None
    ]  # fmt: skip
    return median(known) if known else None


def _ledgers(
    runs: Sequence[Run], stops: Sequence[int | None], basis: str, charge_j: float
) -> list[_Ledger]:
    return [
        _ledger(run, stop, basis, charge_j) for run, stop in zip(runs, stops, strict=True)
    ]  # fmt: skip


def _ledger(run: Run, stop: int | None, basis: str, charge_j: float) -> _Ledger:
    success = success_of(run)
    steps = [energy for energy in run.step_energy_j if energy is not None]
    total = sum(steps) if basis == "steps" else run.total_energy_j
    if len(steps) < len(run.steps) or total is None:
        return _Ledger(success, stop is not None, None, None)
    spent = 0.0 if stop is None else sum(steps[:stop]) + charge_j
    wasted = 0.0 if success else total
    saved = 0.0 if stop is None else wasted - spent
    return _Ledger(success, stop is not None, wasted, saved)


def _sum(ledgers: Sequence[_Ledger]) -> Figures:
    known = [ledger for ledger in ledgers if ledger.wasted is not None]
    wasted = sum(ledger.wasted or 0.0 for ledger in known)
    saved = sum(ledger.saved or 0.0 for ledger in known)
    wins = [ledger for ledger in ledgers if ledger.success]
    stopped = sum(ledger.stopped for ledger in wins)
    return Figures(
        waste_saved=saved / wasted if wasted > 0 else None,
        utility_drop=stopped / len(wins) if wins else None,
        n_runs=len(ledgers),
        n_success=len(wins),
        n_false_stops=stopped,
        n_unknown_energy=len(ledgers) - len(known),
    )


def _exact_interval(count: int, n: int) -> list[float]:
    low = 1.0 - clopper_pearson_upper(n - count, n, 0.975)
    return [low, clopper_pearson_upper(count, n, 0.975)]
