# SPDX-License-Identifier: Apache-2.0
"""From labelled runs to a predictor: choice, fit and threshold, from these runs alone.

Every candidate is scored out of fold; the one that would save most at its own threshold is
taken, and its out-of-fold run-level scores of successes set the threshold (`expected`). For
`high-probability` part of the runs is kept back from fitting and sets it instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidValueError
from .calibration import Bound, Calibration, calibrate
from .decision import DecisionRule, run_level_score, stopped_after
from .evaluation import answer_charge_j, auc, figures, success_of
from .features import FeatureSet, Row
from .fitting import FULL_CANDIDATES, Candidate, fit, paper_candidates
from .predictor import CalibrationNote, DataNote, FeatureNote, Predictor, finite_threshold
from .table import Table, table_of
from .trajectories import Run, fingerprint, population, run_mark
from .trees import Ensemble, probability

__all__ = ["TrainingOptions", "choose_at_step", "recalibrate", "train", "train_on"]

Scores = list[list[float | None]]
_KEPT_BACK_SHARE = 0.4
_PAPER_DRAWS = 8


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """`folds`: for scores out of fold. `candidates`: of `full`. `draws`: of the paper's search,
    per step."""

    max_drop: float = 0.05
    bound: Bound = Bound.EXPECTED
    confidence: float = 0.95
    seed: int = 0
    min_steps: int = 1
    hysteresis: int = 1
    folds: int = 10
    draws: int = _PAPER_DRAWS
    candidates: tuple[Candidate, ...] = FULL_CANDIDATES
    observe_only: bool = False

    @property
    def rule(self) -> DecisionRule:
        return DecisionRule(min_steps=self.min_steps, hysteresis=self.hysteresis)


def train(
    runs: Sequence[Run], features: FeatureSet, options: TrainingOptions, name: str = ""
) -> Predictor:
    """InvalidValueError where there are too few runs of either end."""
    chosen, called = population(runs)
    return train_on(table_of(chosen, features), called, options, name)


def train_on(table: Table, called: str, options: TrainingOptions, name: str = "") -> Predictor:
    """As train, from runs of the population `called` whose features are known already."""
    _check_enough(table.runs)
    features = table.features
    if options.bound is Bound.EXPECTED:
        fitted_on = table
        ensembles, scores, notes = _fit_out_of_fold(table, options)
        held = _success_scores(table, scores, options.rule)
        method = f"scores out of fold, {options.folds} folds"
    else:
        fitting, keeping = _split(table, options.seed)
        fitted_on, kept = table.subset(fitting), table.subset(keeping)
        ensembles, _, notes = _fit_out_of_fold(fitted_on, options)
        held = _success_scores(kept, scores_of(kept, ensembles), options.rule)
        method = f"{len(keeping)} runs that were not fitted"
    made = _calibrate(held, options)
    return Predictor(
        name=name,
        population=called,
        observe_only=options.observe_only,
        features=FeatureNote.of(features),
        rule=options.rule.model_copy(update={"threshold": finite_threshold(made.threshold)}),
        calibration=CalibrationNote.of(made, method),
        data=_data_note(fitted_on.runs),
        training={"seed": options.seed, **notes},
        ensembles=tuple(ensembles),
    )


def recalibrate(predictor: Predictor, runs: Sequence[Run], options: TrainingOptions) -> Predictor:
    """A new threshold from runs that were not fitted; refused by id where one was."""
    chosen, called = population(runs)
    fitted = set(predictor.data.run_marks)
    for run in chosen:
        if run_mark(run) in fitted:
            raise InvalidValueError(
                "FILE", run.id, "the model was fitted on this run; give runs it has not seen"
            )
    rule = options.rule
    held = [
        run_level_score(predictor.scores(run.steps), rule) for run in chosen if success_of(run)
    ]  # fmt: skip
    made = _calibrate(held, options)
    return predictor.model_copy(
        update={
            "population": called,
            "rule": rule.model_copy(update={"threshold": finite_threshold(made.threshold)}),
            "calibration": CalibrationNote.of(made, f"{len(chosen)} runs that were not fitted"),
        }
    )


def scores_of(table: Table, ensembles: Sequence[Ensemble]) -> Scores:
    return [
        [_score(table.features, ensembles, step, row) for step, row in enumerate(rows)]
        for rows in table.rows
    ]


def _score(
    features: FeatureSet, ensembles: Sequence[Ensemble], step: int, row: Row
) -> float | None:
    member = features.member(step)
    return None if member is None or not row else probability(ensembles[member].margin(row))


def _calibrate(success_scores: Sequence[float], options: TrainingOptions) -> Calibration:
    return calibrate(
        success_scores,
        max_drop=options.max_drop,
        bound=options.bound,
        confidence=options.confidence,
    )


def _success_scores(table: Table, scores: Scores, rule: DecisionRule) -> list[float]:
    return [
        run_level_score(told, rule)
        for told, fails in zip(scores, table.fails, strict=True) if not fails
    ]  # fmt: skip


def _fit_out_of_fold(
    table: Table, options: TrainingOptions
) -> tuple[list[Ensemble], Scores, dict[str, object]]:
    """Final ensembles, scores out of fold and what was tried."""
    if not table.features.one_per_step:
        best, scores, tried = _choose(table, options)
        notes: dict[str, object] = {"chosen": best.name, "tried": tried}
        return [fit(table, 0, best, options.seed)], scores, notes
    ensembles: list[Ensemble] = []
    merged: Scores = [[None] * len(run.steps) for run in table.runs]
    chosen = []
    for member in range(len(table.features.names)):
        best, scores = choose_at_step(table, member, options)
        chosen.append(best.name)
        ensembles.append(fit(table, member, best, options.seed))
        for mine, told in zip(merged, scores, strict=True):
            if len(mine) > member:
                mine[member] = told[member]
    return ensembles, merged, {"chosen": chosen, "tried": options.draws}


def _choose(
    table: Table, options: TrainingOptions
) -> tuple[Candidate, Scores, dict[str, float | None]]:
    """By what each would save at its own threshold, out of fold."""
    best: tuple[float, Candidate, Scores] | None = None
    tried: dict[str, float | None] = {}
    for candidate in options.candidates:
        scores = _out_of_fold(table, 0, candidate, options)
        made = _calibrate(_success_scores(table, scores, options.rule), options)
        threshold = finite_threshold(made.threshold)
        rule = options.rule.model_copy(update={"threshold": threshold})
        stops = [stopped_after(told, rule) for told in scores]
        saved = figures(table.runs, stops).waste_saved
        tried[candidate.name] = saved
        if best is None or (saved or 0.0) > best[0]:
            best = (saved or 0.0, candidate, scores)
    assert best is not None
    return best[1], best[2], tried


def choose_at_step(table: Table, member: int, options: TrainingOptions) -> tuple[Candidate, Scores]:
    """By the AUC at this step, out of fold, as the paper does."""
    best: tuple[float, Candidate, Scores] | None = None
    for candidate in paper_candidates(options.draws, options.seed + member):
        scores = _out_of_fold(table, member, candidate, options)
        told = [
            (score[member], fails)
            for score, fails in zip(scores, table.fails, strict=True) if len(score) > member + 1
        ]  # fmt: skip
        area = auc(
            [score for score, fails in told if score is not None and fails],
            [score for score, fails in told if score is not None and not fails],
        )
        if best is None or (area or 0.0) > best[0]:
            best = (area or 0.0, candidate, scores)
    assert best is not None
    return best[1], best[2]


def _out_of_fold(
    table: Table, member: int, candidate: Candidate, options: TrainingOptions
) -> Scores:
    """Scores of predictor `member` for every run by one that has not seen it."""
    found: Scores = [[] for _ in table.runs]
    blank = Ensemble(base_margin=0.0)
    for fitting, testing in _folds(table, options.folds, options.seed):
        ensembles = [blank] * len(table.features.names)
        ensembles[member] = fit(table.subset(fitting), member, candidate, options.seed)
        told = scores_of(table.subset(testing), ensembles)
        for index, scores in zip(testing, told, strict=True):
            found[index] = scores
    return found


def _folds(table: Table, folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415

    rarer = min(int(table.fails.sum()), int((~table.fails).sum()))
    splitter = StratifiedKFold(min(folds, rarer), shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(table.fails)), table.fails)
    return [(fitting.tolist(), testing.tolist()) for fitting, testing in parts]


def _split(table: Table, seed: int) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import StratifiedShuffleSplit  # noqa: PLC0415

    splitter = StratifiedShuffleSplit(1, test_size=_KEPT_BACK_SHARE, random_state=seed)
    fitting, keeping = next(splitter.split(np.zeros(len(table.fails)), table.fails))
    return fitting.tolist(), keeping.tolist()


def _check_enough(runs: Sequence[Run]) -> None:
    successes = sum(success_of(run) for run in runs)
    if min(successes, len(runs) - successes) < 5:
        raise InvalidValueError(
            "FILE", f"{successes} successes, {len(runs) - successes} failures",
            "give at least 5 runs of each end, whose question the bare model can't answer",
        )  # fmt: skip


def _data_note(runs: Sequence[Run]) -> DataNote:
    return DataNote(
        sha256=fingerprint(runs),
        n_runs=len(runs),
        n_success=sum(success_of(run) for run in runs),
        run_marks=tuple(sorted(run_mark(run) for run in runs)),
        answer_charge_j=answer_charge_j(runs),
    )
