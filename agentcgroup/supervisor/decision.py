# SPDX-License-Identifier: Apache-2.0
"""From the scores of a run to continue, answer_now or stop. Pure; one Decider a run.

The rule fires when the last `hysteresis` scores all reach the threshold, from step
`min_steps` on (the number of steps that are always let through). With `answer_first` the
first firing asks the agent for its best answer, and only a step after that is a stop.
What was advised once is not taken back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ..types.steps import Advice
from ..types.validation import WireModel

__all__ = ["Decider", "DecisionRule", "run_level_score", "stopped_after"]


class DecisionRule(WireModel):
    """`threshold` None: never stop. `min_steps`, `hysteresis` in steps."""

    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    min_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    hysteresis: Annotated[int, Field(ge=1, le=100)] = 1


class Decider:
    def __init__(self, rule: DecisionRule, *, answer_first: bool = False) -> None:
        self._rule = rule
        self._first = Advice.ANSWER_NOW if answer_first else Advice.STOP
        self._advised = Advice.CONTINUE
        self._steps = self._in_a_row = 0

    def update(self, score: float | None) -> Advice:
        """Advice after one more step; a step without a score breaks the row."""
        self._steps += 1
        if self._advised is not Advice.CONTINUE:
            self._advised = Advice.STOP
            return self._advised
        threshold = math.inf if self._rule.threshold is None else self._rule.threshold
        reached = score is not None and score >= threshold
        self._in_a_row = self._in_a_row + 1 if reached else 0
        if self._steps >= self._rule.min_steps and self._in_a_row >= self._rule.hysteresis:
            self._advised = self._first
        return self._advised


def run_level_score(scores: Sequence[float | None], rule: DecisionRule) -> float:
    """The highest threshold at which a run with these scores is stopped before its last
    step; -inf if none does. `rule.threshold` is not used."""
    best = -math.inf
    for at in range(rule.min_steps - 1, len(scores) - 1):
        window = scores[max(0, at - rule.hysteresis + 1) : at + 1]
        if len(window) == rule.hysteresis and None not in window:
            best = max(best, min(score for score in window if score is not None))
    return best


def stopped_after(scores: Sequence[float | None], rule: DecisionRule) -> int | None:
    """Steps that were made when the rule stops the run, before its last step; None: never."""
    decider = Decider(rule)
    for done, score in enumerate(scores[:-1], 1):
        if decider.update(score) is Advice.STOP:
            return done
    return None
