# SPDX-License-Identifier: Apache-2.0
"""The delay above a grant: bounds, order, hysteresis, and the table that the kernel gets."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.errors import InvalidValueError
from agentcgroup.policy.delay import (
    CEILING_MS,
    STEPS,
    DelayTuning,
    burst_credit,
    delay_curve,
    delay_ms,
)
from agentcgroup.types.intents import Latency, Priority
from agentcgroup.units import MIB

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
BATCH, STANDARD, INTERACTIVE = Latency.BATCH, Latency.STANDARD, Latency.INTERACTIVE
TUNING = DelayTuning(max_ms=200, burst_pct=12, window_pct=25)

overs = st.floats(-1, 50, allow_nan=False)
credits_ = st.floats(1 / 64, 2, allow_nan=False)
priorities = st.sampled_from(Priority)
latencies = st.sampled_from(Latency)
tunings = st.builds(
    DelayTuning, st.integers(1, CEILING_MS), st.integers(0, 100), st.integers(1, 1000)
)
grants = st.integers(1, 1 << 45)


def test_figures() -> None:
    assert delay_ms(0.10, 0.12, LOW, BATCH, TUNING) == 0
    assert delay_ms(0.185, 0.12, LOW, BATCH, TUNING) == 50  # half the window: a quarter
    assert delay_ms(0.31, 0.12, LOW, BATCH, TUNING) == 200
    assert delay_ms(9.0, 0.12, LOW, BATCH, TUNING) == 200
    assert delay_ms(9.0, 0.12, LOW, STANDARD, TUNING) == 100
    assert delay_ms(9.0, 0.12, NORMAL, INTERACTIVE, TUNING) == 25
    assert delay_ms(9.0, 0.12, HIGH, BATCH, TUNING) == 0


def test_hysteresis_at_the_edge() -> None:
    assert delay_ms(0.11, 0.12, LOW, BATCH, TUNING) == 0
    assert delay_ms(0.11, 0.12, LOW, BATCH, TUNING, delayed=True) > 0
    assert delay_ms(0.06, 0.12, LOW, BATCH, TUNING, delayed=True) == 0


def test_credit_is_earned_by_calm_and_has_a_bound() -> None:
    assert burst_credit(0, STANDARD, TUNING) == 1 / 64
    assert burst_credit(-5, STANDARD, TUNING) == 1 / 64
    assert burst_credit(1, STANDARD, TUNING) == pytest.approx(0.06)
    assert burst_credit(1e9, STANDARD, TUNING) == pytest.approx(0.12)
    assert burst_credit(1e9, INTERACTIVE, TUNING) == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_ms", 0), ("max_ms", 2001), ("burst_pct", -1), ("burst_pct", 101), ("window_pct", 0),
     ("window_pct", 1001)],
)  # fmt: skip
def test_out_of_bounds_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(InvalidValueError) as refused:
        DelayTuning(**{field: value})
    assert refused.value.field == field
    assert "between" in refused.value.remedy


@given(overs, credits_, priorities, latencies, tunings, st.booleans())
def test_bounds(
    over: float, credit: float, priority: Priority, latency: Latency, tuning: DelayTuning,
    delayed: bool,
) -> None:  # fmt: skip
    delay = delay_ms(over, credit, priority, latency, tuning, delayed=delayed)
    assert 0 <= delay <= tuning.max_ms <= CEILING_MS
    assert delay == 0 or over > credit / 2
    assert delay == 0 or priority is not HIGH


@given(overs, overs, credits_, priorities, latencies, tunings)
def test_more_overshoot_never_means_less_delay(
    one: float, other: float, credit: float, priority: Priority, latency: Latency,
    tuning: DelayTuning,
) -> None:  # fmt: skip
    less, more = sorted((one, other))
    delays = [delay_ms(over, credit, priority, latency, tuning) for over in (less, more)]
    assert delays[0] <= delays[1]


@given(overs, credits_, latencies, tunings, st.booleans())
def test_order_of_priorities_and_classes(
    over: float, credit: float, latency: Latency, tuning: DelayTuning, delayed: bool
) -> None:
    by_priority = [
        delay_ms(over, credit, p, latency, tuning, delayed=delayed) for p in (HIGH, NORMAL, LOW)
    ]
    by_class = [
        delay_ms(over, credit, LOW, c, tuning, delayed=delayed)
        for c in (INTERACTIVE, STANDARD, BATCH)
    ]
    assert by_priority == sorted(by_priority)
    assert by_class == sorted(by_class)


@given(overs, credits_, credits_, priorities, latencies, tunings, st.booleans())
def test_credit_never_means_more_delay(
    over: float, one: float, other: float, priority: Priority, latency: Latency,
    tuning: DelayTuning, delayed: bool,
) -> None:  # fmt: skip
    less, more = sorted((one, other))
    poor = delay_ms(over, less, priority, latency, tuning, delayed=delayed)
    assert delay_ms(over, more, priority, latency, tuning, delayed=delayed) <= poor


@given(overs, credits_, priorities, latencies, tunings)
def test_who_was_delayed_is_not_let_off_sooner(
    over: float, credit: float, priority: Priority, latency: Latency, tuning: DelayTuning
) -> None:
    fresh = delay_ms(over, credit, priority, latency, tuning)
    assert fresh <= delay_ms(over, credit, priority, latency, tuning, delayed=True)


@given(grants, credits_, priorities, latencies, tunings, st.floats(0, 20), st.booleans())
def test_the_table_says_what_the_function_says(
    grant: int, credit: float, priority: Priority, latency: Latency, tuning: DelayTuning,
    usage_ratio: float, delayed: bool,
) -> None:  # fmt: skip
    curve = delay_curve(grant, credit, priority, latency, tuning)
    if curve is None:
        assert delay_ms(math.inf, credit, priority, latency, tuning) == 0
        return
    assert len(curve.delay_ms) == STEPS
    assert grant <= curve.stop_bytes <= curve.start_bytes
    assert all(less <= more for less, more in pairwise(curve.delay_ms))
    usage = int(grant * usage_ratio)
    told = curve.delay(usage, delayed=delayed)
    if usage <= (curve.stop_bytes if delayed else curve.start_bytes):
        assert told == 0
        return
    step = min((usage - curve.stop_bytes) // curve.step_bytes, STEPS - 1)
    edges = [curve.stop_bytes + n * curve.step_bytes for n in (step, step + 1)]
    low, high = (
        delay_ms(edge / grant - 1, credit, priority, latency, tuning, delayed=True)
        for edge in edges
    )
    if step == STEPS - 1:
        high = delay_ms(math.inf, credit, priority, latency, tuning)
    assert max(1, low) <= told <= max(1, high)


def test_nobody_with_high_priority_gets_a_table() -> None:
    assert delay_curve(64 * MIB, 0.1, HIGH, BATCH, TUNING) is None
    curve = delay_curve(64 * MIB, 0.125, LOW, BATCH, TUNING)
    assert curve is not None
    assert (curve.start_bytes, curve.stop_bytes, curve.step_bytes) == (72 * MIB, 68 * MIB, MIB)
    assert curve.delay_ms[0] == 1 and curve.delay_ms[-1] == 200
