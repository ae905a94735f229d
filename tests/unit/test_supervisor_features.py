# SPDX-License-Identifier: Apache-2.0
"""Features of a step: what they say, what is unknown, what is refused, fixed memory."""

from __future__ import annotations

import math
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.errors import InvalidValueError
from agentcgroup.supervisor.features import FEATURE_SETS, feature_set, rows_of
from agentcgroup.supervisor.full_features import FULL_NAMES, FullExtractor
from agentcgroup.supervisor.paper_features import PAPER_STEPS, common_substring, paper_names
from agentcgroup.supervisor.signals import HostSignals
from agentcgroup.types.steps import StepReport


def step(at: int, **told: object) -> StepReport:
    fields = {"step": at, "prompt_tokens": 100, "completion_tokens": 3, **told}
    return StepReport.model_validate(fields)


def named(row: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(FULL_NAMES, row, strict=True))


def test_spending_is_summed_and_averaged() -> None:
    rows = rows_of(
        feature_set("full"), [step(0), step(1, prompt_tokens=160), step(2, prompt_tokens=200)]
    )
    last = named(rows[-1])
    assert last["spent_tokens"] == 460 + 9
    assert last["prompt_mean"] == pytest.approx(460 / 3)
    assert (last["prompt_growth"], last["growth_mean"]) == (40, 50)
    assert math.isnan(named(rows[0])["prompt_growth"])


def test_repetition_is_seen_over_the_whole_run() -> None:
    first, other = "one two three four five six", "alpha beta gamma delta epsilon zeta"
    rows = rows_of(
        feature_set("full"), [step(0, text=first), step(1, text=other), step(2, text=first)]
    )
    told = named(rows[2])
    assert (told["seen_share"], told["previous_share"]) == (1.0, 0.0)
    assert (told["repeats"], told["repeats_in_a_row"]) == (1, 1)
    assert named(rows[1])["seen_share"] == 0.0


def test_tools_and_words_of_failure() -> None:
    told = named(
        rows_of(
            feature_set("full"),
            [
                step(0, tool_calls=["a"], text="An error. It failed."),
                step(1, tool_calls=["a"], text="invalid"),
                step(2, tool_calls=["a", "b"], text="fine"),
            ],
        )[1]
    )
    assert (told["tool_entropy"], told["tool_unchanged_in_a_row"]) == (0.0, 1.0)
    assert (told["failure_words"], told["failure_words_in_a_row"]) == (1.0, 2.0)


def test_what_is_not_told_is_unknown() -> None:
    told = named(FullExtractor().update(step(0)))
    for name in ("seen_share", "logprob_mean", "tool_calls", "tool_entropy", "failure_words",
                 "host_calls", "host_silent_s"):  # fmt: skip
        assert math.isnan(told[name]), name
    seen = named(FullExtractor().update(step(0), HostSignals(calls=2, failed=2, cpu_s=1.5)))
    assert (seen["host_failed_in_a_row"], seen["host_cpu_s"]) == (2, 1.5)
    assert math.isnan(seen["host_peak_share"])


def test_shingles_stand_for_text() -> None:
    from agentcgroup.supervisor.sketch import shingles_of

    texts = ["a b c d e", "a b c d f", "x y z"]
    by_text = rows_of(feature_set("full"), [step(n, text=t) for n, t in enumerate(texts)])
    hashed = [step(n, shingles=sorted(shingles_of(t))) for n, t in enumerate(texts)]
    for one, other in zip(by_text, rows_of(feature_set("full"), hashed), strict=True):
        assert named(one)["seen_share"] == named(other)["seen_share"]


def test_paper_features() -> None:
    logprobs = [-float(rank) for rank in range(12)]
    rows = rows_of(
        feature_set("paper"),
        [
            step(0, completion_tokens=12, thought_tokens=5, logprobs=logprobs, text="abcdef"),
            step(1, completion_tokens=1, logprobs=[-0.5], text="xxcdex"),
            *(step(at) for at in range(2, PAPER_STEPS + 2)),
        ],
    )
    assert rows[0] == (*(math.exp(-float(rank)) for rank in range(11, 1, -1)), 12.0, 5.0)
    second = dict(zip(paper_names(1), rows[1], strict=True))
    assert second["step1.common_substring"] == 3 / 6
    assert second["step1.probability_0"] == math.exp(-0.5)
    assert math.isnan(second["step1.probability_1"])
    assert rows[PAPER_STEPS] == rows[PAPER_STEPS + 1] == ()
    for at, row in enumerate(rows[:PAPER_STEPS]):
        assert len(row) == len(paper_names(at))


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("", "a", 0), ("abc", "xyz", 0), ("abcd", "zbcdz", 3), ("aaa", "aa", 2), ("same", "same", 4)],
)
def test_common_substring(one: str, other: str, length: int) -> None:
    assert common_substring(one, other) == length


@st.composite
def alike_texts(draw: st.DrawFn) -> tuple[str, str]:
    """Texts of few letters and shared parts: many grams in common, in another order."""
    parts = draw(st.lists(st.text("ab ", max_size=30), min_size=1, max_size=6))
    one = draw(st.permutations(parts))
    other = draw(st.lists(st.sampled_from(parts), max_size=6))
    return "".join(one), "x".join(other)


@given(alike_texts())
def test_common_substring_is_what_trying_all_gives(texts: tuple[str, str]) -> None:
    one, other = texts
    longest = max(
        (end - begin for begin in range(len(one)) for end in range(begin, len(one) + 1)
         if one[begin:end] in other),
        default=0,
    )  # fmt: skip
    assert common_substring(one, other) == longest


@pytest.mark.parametrize("name", sorted(FEATURE_SETS))
@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"logprobs": [-1.0, math.nan, -1.0]}, "logprobs.1"),
        ({"logprobs": [-1.0, -math.inf, -1.0]}, "logprobs.1"),
        ({"logprobs": [0.5, -1.0, -1.0]}, "logprobs.0"),
        ({"logprobs": [-1.0] * 9}, "logprobs"),
        ({"logprob_summary": {"mean": math.inf}}, "logprob_summary.mean"),
        ({"logprob_summary": {"median": -1.0}}, "logprob_summary.median"),
        ({"logprobs": [-1.0] * 3, "logprob_summary": {"mean": -1.0}}, "logprob_summary"),
    ],
)
def test_figures_of_no_use_are_refused_and_nothing_is_kept(
    name: str, told: dict[str, object], field: str
) -> None:
    extractor, untouched = FEATURE_SETS[name].extractor(), FEATURE_SETS[name].extractor()
    with pytest.raises(InvalidValueError) as refused:
        extractor.update(step(0, **told))
    assert refused.value.field == field
    assert str(extractor.update(step(0))) == str(untouched.update(step(0)))


def test_ten_thousand_steps_take_no_more_memory_and_less_than_a_millisecond() -> None:
    extractor, sizes, took = FullExtractor(), [], []
    for at in range(10_000):
        text = " ".join(f"w{at * 7 + place}" for place in range(30))
        report = step(at, completion_tokens=30, logprobs=[-0.1] * 30, text=text)
        began = time.thread_time()
        extractor.update(report)
        took.append(time.thread_time() - began)
        if at in (2_000, 9_999):
            sizes.append(len(pickle.dumps(extractor)))
    assert sizes[1] <= sizes[0] + 200
    assert sorted(took)[9_900] < 0.001


def test_an_endless_run_does_not_find_everything_repeated() -> None:
    extractor = FullExtractor()
    for at in range(1_000):
        text = " ".join(f"w{at * 100 + place}" for place in range(100))
        told = named(extractor.update(step(at, text=text)))
        assert told["seen_share"] < 0.4
