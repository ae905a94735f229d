# SPDX-License-Identifier: Apache-2.0
"""How soon a call is looked at again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.policy.pacing import SLOWEST_LOOK_NS, next_look_at_ns, next_look_ns
from agentcgroup.units import GIB, MIB

MS = 1_000_000


def test_who_grows_is_looked_at_when_half_its_room_may_be_gone() -> None:
    assert next_look_ns(20 * MIB, 20 * MS, 80 * MIB, 20 * MS) == 40 * MS


def test_a_burst_after_a_rest_counts_as_if_it_had_just_begun() -> None:
    assert next_look_ns(20 * MIB, 250 * MS, 80 * MIB, 250 * MS) == 40 * MS


def test_who_grows_at_its_line_is_looked_at_soonest() -> None:
    assert next_look_ns(20 * MIB, 20 * MS, 0, 20 * MS) == 10 * MS
    assert next_look_ns(20 * MIB, 20 * MS, -5 * MIB, 20 * MS) == 10 * MS


def test_who_grows_far_from_any_line_is_still_looked_at() -> None:
    assert next_look_ns(2 * MIB, 100 * MS, GIB, 100 * MS) == 100 * MS
    assert next_look_ns(2 * MIB, 100 * MS, None, 100 * MS) == 100 * MS


def test_who_gave_back_is_looked_at_soon() -> None:
    assert next_look_ns(-2 * MIB, 250 * MS, GIB, 250 * MS) == 50 * MS


def test_who_stirs_near_its_line_is_looked_at_soon() -> None:
    assert next_look_ns(100 << 10, 250 * MS, 10 * MIB, 250 * MS) == 20 * MS
    assert next_look_ns(100 << 10, 250 * MS, 100 * MIB, 250 * MS) == SLOWEST_LOOK_NS


def test_who_stands_still_is_looked_at_ever_more_rarely() -> None:
    assert next_look_ns(0, 50 * MS, 10 * MIB, 50 * MS) == 100 * MS
    assert next_look_ns(0, 200 * MS, 10 * MIB, 200 * MS) == SLOWEST_LOOK_NS


@given(
    st.integers(-(1 << 40), 1 << 40), st.integers(0, 10**12),
    st.one_of(st.none(), st.integers(-(1 << 40), 1 << 45)), st.integers(1 * MS, SLOWEST_LOOK_NS),
)  # fmt: skip
def test_never_busier_than_100_times_a_second_and_never_blind(
    gained: int, elapsed: int, left: int | None, last: int
) -> None:
    assert min(10 * MS, 2 * last) <= next_look_ns(gained, elapsed, left, last) <= SLOWEST_LOOK_NS


@given(st.integers(0, 10**15))
def test_calls_that_stand_still_are_looked_at_together(now: int) -> None:
    at = next_look_at_ns(now, SLOWEST_LOOK_NS)
    assert SLOWEST_LOOK_NS // 8 < at - now <= SLOWEST_LOOK_NS * 9 // 8
    assert next_look_at_ns(at - 4 * MS, SLOWEST_LOOK_NS) == at + SLOWEST_LOOK_NS
    assert next_look_at_ns(at + 100 * MS, SLOWEST_LOOK_NS) == at + SLOWEST_LOOK_NS
    assert next_look_at_ns(now, 20 * MS) == now + 20 * MS
