# SPDX-License-Identifier: Apache-2.0
"""What may never depend on the future, and two ways to say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.supervisor.calibration import Bound, calibrate, clopper_pearson_upper
from agentcgroup.supervisor.decision import DecisionRule, run_level_score, stopped_after
from agentcgroup.supervisor.features import FEATURE_SETS, rows_of
from agentcgroup.supervisor.probabilities import summarise
from agentcgroup.types.steps import StepReport

logprobs = st.lists(st.floats(-20, 0), min_size=0, max_size=20)
words = st.lists(st.sampled_from(["a", "b", "error", "x1", "."]), max_size=30)


@st.composite
def runs(draw: st.DrawFn) -> list[StepReport]:
    return [_step(draw, at) for at in range(draw(st.integers(1, 8)))]


def _step(draw: st.DrawFn, at: int) -> StepReport:
    probabilities = draw(logprobs)
    told: dict[str, Any] = {
        "step": at,
        "prompt_tokens": draw(st.integers(0, 10_000)),
        "completion_tokens": len(probabilities),
        "tool_calls": draw(st.lists(st.sampled_from(["bash", "read", "web"]), max_size=4)),
    }
    if draw(st.booleans()):
        told["logprobs"] = probabilities
    if draw(st.booleans()):
        told["text"] = " ".join(draw(words))
    return StepReport.model_validate(told)


@pytest.mark.parametrize("name", sorted(FEATURE_SETS))
@settings(deadline=None)
@given(run=runs(), cut=st.integers(1, 8))
def test_a_run_cut_off_has_the_same_features_so_far(
    name: str, run: list[StepReport], cut: int
) -> None:
    whole = rows_of(FEATURE_SETS[name], run)
    part = rows_of(FEATURE_SETS[name], run[:cut])
    assert str(part) == str(whole[: len(part)])


@pytest.mark.parametrize("name", sorted(FEATURE_SETS))
@settings(deadline=None)
@given(run=runs())
def test_a_summary_gives_the_same_features_as_every_log_probability(
    name: str, run: list[StepReport]
) -> None:
    short = [
        step.model_copy(update={"logprobs": None, "logprob_summary": summarise(step.logprobs)})
        if step.logprobs is not None
        else step
        for step in run
    ]
    assert str(rows_of(FEATURE_SETS[name], short)) == str(rows_of(FEATURE_SETS[name], run))


scores = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12)
rules = st.builds(DecisionRule, min_steps=st.integers(1, 4), hysteresis=st.integers(1, 3))


@settings(deadline=None)
@given(told=scores, rule=rules)
def test_a_run_stops_exactly_up_to_its_run_level_score(
    told: list[float | None], rule: DecisionRule
) -> None:
    level = run_level_score(told, rule)
    if level >= 0:
        at = rule.model_copy(update={"threshold": level})
        assert stopped_after(told, at) is not None
    above = rule.model_copy(update={"threshold": max(level, 0.0) + 1e-9})
    assert stopped_after(told, above) is None


@settings(deadline=None)
@given(
    held=st.lists(st.floats(0, 1), max_size=80),
    max_drop=st.floats(0.01, 0.5),
    bound=st.sampled_from(Bound),
)
def test_the_bound_is_kept_or_said_not_to_be(
    held: list[float], max_drop: float, bound: Bound
) -> None:
    made = calibrate(held, max_drop=max_drop, bound=bound)
    assert made.false_stops == sum(score >= made.threshold for score in held)
    if made.certified:
        assert made.drop_bound <= max_drop + 1e-9
    else:
        assert made.false_stops == 0
        assert "at least" in made.reason


@settings(deadline=None)
@given(n=st.integers(1, 60), confidence=st.floats(0.5, 0.99))
def test_clopper_pearson_rises_with_the_count(n: int, confidence: float) -> None:
    ends = [clopper_pearson_upper(count, n, confidence) for count in range(n + 1)]
    assert ends == sorted(ends)
    assert ends[0] == pytest.approx(1 - (1 - confidence) ** (1 / n), abs=1e-9)
    assert ends[-1] == 1.0
