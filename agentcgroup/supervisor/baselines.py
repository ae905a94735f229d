# SPDX-License-Identifier: Apache-2.0
"""Plain scores to compare a predictor with: each gives a run's steps a number, higher = stop.

`step_cap` and `seen_share` are the rules a person would write first; `spending` is the tokens
taken so far and nothing else, `prompt_size` and `answer_size` those of this step; `random`
knows nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from .decision import DecisionRule, stopped_after
from .features import feature_set, rows_of
from .full_features import FULL_NAMES
from .trajectories import Run

__all__ = ["BASELINES", "seen_share_stops", "step_cap_stops"]

_SEEN = FULL_NAMES.index("seen_share")
_SPENT = FULL_NAMES.index("spent_tokens")


def _column(run: Run, column: int) -> list[float | None]:
    return [row[column] for row in rows_of(feature_set("full"), run.steps)]


def step_number(run: Run) -> list[float | None]:
    return [float(step.step) for step in run.steps]


def seen_share(run: Run) -> list[float | None]:
    """Share of the step's 4-grams that the run had before."""
    return [None if math.isnan(share or 0.0) else share for share in _column(run, _SEEN)]


def spending(run: Run) -> list[float | None]:
    return _column(run, _SPENT)


def prompt_size(run: Run) -> list[float | None]:
    return [float(step.prompt_tokens) for step in run.steps]


def answer_size(run: Run) -> list[float | None]:
    return [float(step.completion_tokens) for step in run.steps]


def chance(run: Run) -> list[float | None]:
    """The same every time for the same run."""
    dice = random.Random(run.id)
    return [dice.random() for _ in run.steps]


BASELINES: dict[str, Callable[[Run], list[float | None]]] = {
    "step_cap": step_number,
    "seen_share": seen_share,
    "spending": spending,
    "prompt_size": prompt_size,
    "answer_size": answer_size,
    "random": chance,
}


def step_cap_stops(runs: Sequence[Run], cap: int) -> list[int | None]:
    """Every run is stopped after `cap` steps."""
    rule = DecisionRule(threshold=float(cap - 1))
    return [stopped_after(step_number(run), rule) for run in runs]


def seen_share_stops(runs: Sequence[Run], share: float) -> list[int | None]:
    """A run is stopped when at least `share` of a step's 4-grams were said before."""
    rule = DecisionRule(threshold=share)
    return [stopped_after(seen_share(run), rule) for run in runs]
