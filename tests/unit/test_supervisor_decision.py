# SPDX-License-Identifier: Apache-2.0
"""Thresholds and what they promise; from scores to advice; what that saves and costs."""

from __future__ import annotations

import math

import pytest

from agentcgroup.errors import FormatError
from agentcgroup.supervisor.calibration import Bound, calibrate, needed_successes
from agentcgroup.supervisor.decision import Decider, DecisionRule, stopped_after
from agentcgroup.supervisor.evaluation import auc, auc_by_step, figures, intervals
from agentcgroup.supervisor.trajectories import Run
from agentcgroup.types.steps import Advice, StepReport


def test_expected_allows_what_the_bound_has_room_for() -> None:
    scores = [number / 100 for number in range(53)]
    made = calibrate(scores, max_drop=0.05)
    assert (made.false_stops, made.certified) == (1, True)
    assert made.threshold == math.nextafter(0.51, 1)
    assert made.drop_bound == 2 / 54
    assert calibrate(scores[:19], max_drop=0.05).false_stops == 0


def test_expected_with_too_few_successes_never_stops() -> None:
    made = calibrate([0.1] * 18, max_drop=0.05)
    assert made.threshold == math.inf
    assert not made.certified
    assert "at least 19 successes" in made.reason


@pytest.mark.parametrize(("n", "certified"), [(58, False), (59, True)])
def test_high_probability_needs_59_successes_for_5_at_95(n: int, certified: bool) -> None:
    made = calibrate([0.5] * n, max_drop=0.05, bound=Bound.HIGH_PROBABILITY)
    assert made.certified is certified
    assert made.false_stops == 0
    assert needed_successes(0.05, Bound.HIGH_PROBABILITY, 0.95) == 59
    if not certified:
        assert "5.0% at 95% confidence needs at least 59 successes" in made.reason


def test_high_probability_with_many_successes_allows_some() -> None:
    made = calibrate(
        [n / 500 for n in range(500)], max_drop=0.05, bound=Bound.HIGH_PROBABILITY
    )  # fmt: skip
    assert made.false_stops == 16
    assert made.drop_bound <= 0.05


def test_advice_waits_for_steps_and_agreement() -> None:
    decider = Decider(DecisionRule(threshold=0.8, min_steps=3, hysteresis=2))
    told = [decider.update(score) for score in (0.9, 0.9, 0.1, 0.9, None, 0.9, 0.8, 0.0)]
    assert told == [Advice.CONTINUE] * 6 + [Advice.STOP] * 2


def test_an_answer_is_asked_for_first() -> None:
    decider = Decider(DecisionRule(threshold=0.8), answer_first=True)
    assert [decider.update(score) for score in (0.1, 0.9, 0.1)] == [
        Advice.CONTINUE, Advice.ANSWER_NOW, Advice.STOP,
    ]  # fmt: skip


def test_without_a_threshold_nothing_stops() -> None:
    assert stopped_after([1.0, 1.0, 1.0], DecisionRule()) is None


def test_the_last_step_is_too_late() -> None:
    assert stopped_after([0.0, 1.0], DecisionRule(threshold=0.5)) is None
    assert stopped_after([0.0, 1.0, 0.0], DecisionRule(threshold=0.5)) == 2


def run(name: str, energies: list[float | None], success: bool | None, total: float) -> Run:
    steps = tuple(
        StepReport(step=at, prompt_tokens=1, completion_tokens=1) for at in range(len(energies))
    )
    return Run(name, steps, tuple(energies), total, success, None)


RUNS = [
    run("long failure", [10, 10, 10, 10], False, 50),
    run("short failure", [20, 40], False, 70),
    run("success", [10, 30], True, 45),
    run("other success", [5, 5, 5], True, 20),
]


def test_saved_waste_counts_what_false_stops_cost() -> None:
    found = figures(RUNS, [1, None, 1, None])
    assert found.waste_saved == (30 - 10) / 100
    assert (found.n_false_stops, found.utility_drop) == (1, 0.5)
    paper = figures(RUNS, [1, None, 1, None], basis="paper")
    assert paper.waste_saved == (40 - 10) / 120
    asked = figures(RUNS, [1, None, None, None], charge_j=12)
    assert asked.waste_saved == (30 - 12) / 100


def test_unknown_energy_is_not_zero() -> None:
    found = figures([*RUNS, run("unknown", [1, None], False, 9)], [1, None, None, None, 1])
    assert found.n_unknown_energy == 1
    assert found.waste_saved == 0.3
    alone = figures([run("unknown", [None], False, 9)], [None])
    assert (alone.waste_saved, alone.utility_drop) == (None, None)


def test_intervals_hold_the_figure() -> None:
    waste, drop = intervals(RUNS * 10, [1, None, None, None] * 10, seed=1)
    assert waste is not None
    assert waste[0] < 0.3 < waste[1]
    assert drop is not None
    assert drop[0] == 0.0
    assert drop[1] == pytest.approx(1 - 0.025 ** (1 / 20))


def test_a_run_without_a_label_is_named() -> None:
    with pytest.raises(FormatError, match="nobody knows: success"):
        figures([run("nobody knows", [1.0], None, 1)], [None])


def test_auc() -> None:
    assert auc([0.9, 0.8], [0.1]) == 1.0
    assert auc([0.5, 0.1], [0.5, 0.9]) == 0.125
    assert auc([], [0.5]) is None
    told = auc_by_step(RUNS, [[0.9] * 4, [0.1] * 2, [0.2] * 2, [0.3] * 3])
    assert told == [0.5, 1.0, None]
