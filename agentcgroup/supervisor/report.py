# SPDX-License-Identifier: Apache-2.0
"""What a predictor does to recorded runs, as plain data: for JSON, tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .decision import run_level_score, stopped_after
from .evaluation import Figures, auc_by_step, figures, intervals, success_of
from .features import rows_of
from .predictor import Predictor
from .trajectories import Run, population, run_mark

__all__ = ["Judged", "curve", "evaluation_report", "explanation", "judge", "reliability"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One run under a predictor. `stop`: steps that were made when it is stopped, or None."""

    run: Run
    scores: tuple[float | None, ...]
    stop: int | None


def judge(predictor: Predictor, runs: Sequence[Run]) -> list[Judged]:
    """Scores and stop of every run. Labels and totals are not looked at."""
    found = []
    for run in runs:
        scores = predictor.scores(run.steps)
        found.append(Judged(run, tuple(scores), stopped_after(scores, predictor.rule)))
    return found


def evaluation_report(predictor: Predictor, runs: Sequence[Run], seed: int = 0) -> dict[str, Any]:
    """The figures of `supervisor evaluate --json`; see docs/cli.md for the keys."""
    chosen, called = population(runs)
    judged = judge(predictor, chosen)
    stops = [told.stop for told in judged]
    charge = predictor.data.answer_charge_j
    fitted = set(predictor.data.run_marks)
    report: dict[str, Any] = {
        "schema": 1,
        "model": _model_note(predictor),
        "population": called,
        "basis": "steps",
        **_told(chosen, stops, seed, "steps", 0.0),
        "n_stopped": sum(stop is not None for stop in stops),
        "n_runs_fitted": sum(run_mark(run) in fitted for run in chosen),
        "auc": auc_by_step(chosen, [told.scores for told in judged]),
        "paper_basis": {"basis": "paper", **_told(chosen, stops, seed, "paper", 0.0)},
        "answer_now": None,
    }
    if charge is not None:
        report["answer_now"] = {
            "basis": "steps",
            "charge_j": charge,
            **_told(chosen, stops, seed, "steps", charge),
            "utility_drop_if_every_answer_is_kept": 0.0,
        }
    return report


def curve(
    predictor: Predictor, judged: Sequence[Judged]
) -> list[tuple[float, float]]:  # (utility drop, waste saved)
    """Every threshold's drop and waste on these very runs: a picture, not a promise."""
    levels = {run_level_score(told.scores, predictor.rule) for told in judged}
    runs = [told.run for told in judged]
    points = []
    for level in sorted(levels, reverse=True):
        if level < 0:
            continue
        rule = predictor.rule.model_copy(update={"threshold": level})
        found = figures(runs, [stopped_after(told.scores, rule) for told in judged])
        points.append((found.utility_drop or 0.0, found.waste_saved or 0.0))
    return points


def reliability(judged: Sequence[Judged], bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean score, share that failed, steps) by tenth of the score, before the last steps."""
    pairs = sorted(
        (score, not success_of(told.run))
        for told in judged for score in told.scores[:-1] if score is not None
    )  # fmt: skip
    found = []
    for number in range(bins):
        part = pairs[number * len(pairs) // bins : (number + 1) * len(pairs) // bins]
        if part:
            mean = sum(score for score, _ in part) / len(part)
            found.append((mean, sum(fails for _, fails in part) / len(part), len(part)))
    return found


def explanation(predictor: Predictor, run: Run, step: int | None = None) -> dict[str, Any]:
    """What drove the score at `step` (default: where it is stopped, else its last step)."""
    rows = rows_of(predictor.feature_set, run.steps)
    told = judge(predictor, [run])[0]
    at = step if step is not None else (told.stop or len(rows)) - 1
    return {
        "schema": 1,
        "run": run.id,
        "step": at,
        "score": told.scores[at],
        "threshold": predictor.rule.threshold,
        "stopped_after": told.stop,
        "contributions": [
            {"feature": name, "value": None if math.isnan(value) else value, "log_odds": added}
            for name, value, added in predictor.why(at, rows[at])
        ],
    }


def _model_note(predictor: Predictor) -> dict[str, Any]:
    return {
        "name": predictor.name,
        "features": predictor.features.set,
        "threshold": predictor.rule.threshold,
        "bound": predictor.calibration.bound.value,
        "max_drop": predictor.calibration.max_drop,
        "certified": predictor.calibration.certified,
    }


def _told(
    runs: Sequence[Run], stops: Sequence[int | None], seed: int, basis: str, charge_j: float
) -> dict[str, Any]:
    found: Figures = figures(runs, stops, basis=basis, charge_j=charge_j)
    waste, drop = intervals(runs, stops, seed=seed, basis=basis, charge_j=charge_j)
    return {
        "waste_saved": found.waste_saved,
        "waste_saved_ci95": waste,
        "utility_drop": found.utility_drop,
        "utility_drop_ci95": drop,
        "n_runs": found.n_runs,
        "n_success": found.n_success,
        "n_false_stops": found.n_false_stops,
        "n_unknown_energy": found.n_unknown_energy,
    }
