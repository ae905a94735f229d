# SPDX-License-Identifier: Apache-2.0
"""A run as it happens: the same numbers as offline, order, the rules, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from supervisor_runs import made_up_runs, write_runs

from agentcgroup.daemon.energy import DeclaredCost, EnergyMeter, read_rapl_uj
from agentcgroup.errors import InvalidValueError
from agentcgroup.supervisor.decision import Decider
from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import FULL_CANDIDATES
from agentcgroup.supervisor.online import RunWatch
from agentcgroup.supervisor.predictor import Predictor
from agentcgroup.supervisor.rules import RuleLimits, Rules
from agentcgroup.supervisor.signals import HostSignals
from agentcgroup.supervisor.training import TrainingOptions, train
from agentcgroup.supervisor.trajectories import Run, read_runs
from agentcgroup.types.steps import Advice, StepReport

RULES = RuleLimits()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return read_runs([write_runs(tmp_path_factory.mktemp("r") / "r.jsonl", made_up_runs(120))])


@pytest.fixture(scope="module")
def model(runs: list[Run]) -> Predictor:
    options = TrainingOptions(folds=4, candidates=FULL_CANDIDATES[4:5])
    return train(runs, feature_set("full"), options, "made up")


def step(at: int, **told: Any) -> StepReport:
    fields = {"step": at, "prompt_tokens": 100, "completion_tokens": 3, **told}
    return StepReport.model_validate(fields)


def test_online_is_offline(runs: list[Run], model: Predictor) -> None:
    stopped = 0
    for run in runs:
        watch, decider = RunWatch(model, RuleLimits(stuck=False)), Decider(model.rule)
        for report, score in zip(run.steps, model.scores(run.steps), strict=True):
            told = watch.report(report)
            assert told.score == score
            assert told.advice is decider.update(score)
            assert (told.predictor, told.threshold) == ("made up", model.rule.threshold)
        stopped += told.advice is Advice.STOP
    assert stopped


def test_a_repeated_report_gets_its_answer_again(runs: list[Run], model: Predictor) -> None:
    once, twice = RunWatch(model, RULES), RunWatch(model, RULES)
    for report in runs[0].steps:
        first = twice.report(report)
        again = twice.report(report)
        assert (again.repeated, again.score, again.advice) == (True, first.score, first.advice)
        assert once.report(report) == first


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (step(0), "steps come in order"),
        (step(3), "the next one is 2"),
        (step(1, prompt_tokens=5), "with other figures"),
    ],
)
def test_steps_out_of_order_are_refused_and_nothing_is_kept(
    model: Predictor, told: StepReport, words: str
) -> None:
    watch, untouched = RunWatch(model, RULES), RunWatch(model, RULES)
    for at in (0, 1):
        watch.report(step(at))
        untouched.report(step(at))
    with pytest.raises(InvalidValueError, match=words):
        watch.report(told)
    assert watch.report(step(2)) == untouched.report(step(2))


@pytest.mark.parametrize("with_model", [True, False])
def test_figures_of_no_use_are_refused_with_and_without_a_model(
    model: Predictor, with_model: bool
) -> None:
    watch = RunWatch(model if with_model else None, RULES)
    for told in ({"logprobs": [math.nan] * 3}, {"logprobs": [-1.0] * 7}):
        with pytest.raises(InvalidValueError, match="logprobs"):
            watch.report(step(0, **told))
    assert watch.report(step(0)).advice is Advice.CONTINUE


def test_a_run_whose_beginning_was_not_seen_is_judged_by_rules(model: Predictor) -> None:
    watch = RunWatch(model, RULES)
    told = watch.report(step(7, text="x"))
    assert (told.score, told.predictor) == (None, "rules")
    assert "beginning was not seen" in told.reason
    advice = [watch.report(step(at, text="x", tool_calls=["a"])).advice for at in range(8, 12)]
    assert advice[-1] is Advice.STOP


def test_any_subset_is_judged_and_what_was_not_told_is_said(model: Predictor) -> None:
    told = RunWatch(model, RULES).report(step(0))
    assert told.score is not None
    assert told.reason.endswith("(not told: token probabilities, text, tool calls)")
    some = {"logprobs": [-0.5] * 3, "text": "x", "tool_calls": []}
    assert "not told" not in RunWatch(model, RULES).report(step(0, **some)).reason


def test_without_a_model_it_says_so() -> None:
    told = RunWatch(None, RULES).report(step(0))
    assert told.reason == "no supervisor model is loaded; no rule is broken"


def judged(limits: RuleLimits, reports: list[StepReport]) -> list[Advice]:
    watch = RunWatch(None, limits)
    return [watch.report(report).advice for report in reports]


def first_stop(reports: list[StepReport], **limits: Any) -> int | None:
    told = judged(RuleLimits.model_validate(limits), reports)
    return told.index(Advice.STOP) if Advice.STOP in told else None


def test_the_same_action_four_times_is_stuck() -> None:
    assert first_stop([step(at, text="same", tool_calls=["t"]) for at in range(6)]) == 3
    other = [step(at, text=f"same {at}", tool_calls=["t"]) for at in range(20)]
    assert first_stop(other) is None
    assert first_stop([step(at, shingles=[1, 2], tool_calls=["t"]) for at in range(6)]) == 3
    assert first_stop([step(at, tool_calls=["t"]) for at in range(6)]) is None
    assert first_stop([step(at, text="same") for at in range(6)], stuck=False) is None


def test_a_monologue_is_stuck_after_three() -> None:
    assert first_stop([step(at, text="hm") for at in range(6)]) == 2


def test_alternation_is_stuck_after_six() -> None:
    turns = [step(at, text="ab"[at % 2], tool_calls=["t"]) for at in range(8)]
    assert first_stop(turns) == 5


def test_failing_calls_are_stuck_after_three_steps() -> None:
    rules = Rules(RULES)
    bad, good, none = HostSignals(calls=2, failed=2), HostSignals(calls=2, failed=1), HostSignals()
    for host in (bad, bad, good, bad, none, bad):
        rules.update(step(0), host, None)
        assert rules.stuck() is None
    rules.update(step(0), bad, None)
    assert "every tool call of the last 3 steps" in (rules.stuck() or "")


@pytest.mark.parametrize(
    ("limits", "at"),
    [({"max_steps": 4}, 3), ({"max_tokens": 300}, 2), ({"max_cost_usd": 0.5}, 4)],
)
def test_caps(limits: dict[str, Any], at: int) -> None:
    assert first_stop([step(n, cost_usd=0.1) for n in range(8)], **limits) == at


def test_energy_caps_count_what_is_known() -> None:
    rules = Rules(RuleLimits(max_energy_j=10))
    for energy_j in (6.0, None, 5.0):
        rules.update(step(0), None, energy_j)
    assert rules.over_cap() == "11 joules reach the cap of 10"


def test_an_answer_may_be_asked_for_first() -> None:
    watch = RunWatch(None, RuleLimits(max_steps=2), answer_first=True)
    told = [watch.report(step(at)).advice for at in range(3)]
    assert told == [Advice.CONTINUE, Advice.ANSWER_NOW, Advice.STOP]


def powercap(folder: Path, packages: list[int], largest: int = 1000) -> Path:
    for number, counter in enumerate(packages):
        zone = folder / f"intel-rapl:{number}"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "energy_uj").write_text(f"{counter}\n")
        (zone / "max_energy_range_uj").write_text(f"{largest}\n")
        (folder / f"intel-rapl:{number}:0").mkdir(exist_ok=True)
    return folder


def meter(tmp_path: Path, declared: DeclaredCost, ticks: int) -> EnergyMeter:
    (tmp_path / "stat").write_text(f"cpu {ticks} 0 0 5000 0 0 0 0 0 0\ncpu0 1\n")
    return EnergyMeter(declared, 100, tmp_path / "powercap", tmp_path / "stat")


def test_rapl_gives_the_sessions_share_and_survives_the_wrap(tmp_path: Path) -> None:
    powercap(tmp_path / "powercap", [100, 990])
    before = meter(tmp_path, DeclaredCost(), 1000).read(0, 10.0)
    powercap(tmp_path / "powercap", [400, 9])
    now = meter(tmp_path, DeclaredCost(), 1200).read(1, 10.5)
    joules, source = meter(tmp_path, DeclaredCost(), 1200).step(step(1), before, now)
    assert source == "rapl share"
    assert joules == pytest.approx((300 + 20) * 1e-6 * 0.5 / 2.0)


def test_energy_reported_declared_or_unknown_never_zero(tmp_path: Path) -> None:
    unknown = meter(tmp_path, DeclaredCost(), 1)
    assert read_rapl_uj(tmp_path / "powercap") is None
    now = unknown.read(2_000_000_000, 1.0)
    assert unknown.step(step(0), None, now) == (None, "unknown")
    assert unknown.step(step(0, energy_j=7.5), None, now) == (7.5, "reported")
    per_token = meter(tmp_path, DeclaredCost(j_per_token=0.5), 1)
    assert per_token.step(step(0), None, now) == (51.5, "declared per token")
    per_s = meter(tmp_path, DeclaredCost(j_per_s=3.0), 1)
    assert per_s.step(step(0), None, now) == (None, "unknown")
    assert per_s.step(step(1), per_s.read(0, 1.0), now) == (6.0, "declared per second")
