# SPDX-License-Identifier: Apache-2.0
"""Bytes over time in bounded room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.simulate.host import Timeline
from agentcgroup.units import NS_PER_MS


def noted(moves: list[tuple[int, float]]) -> Timeline:
    timeline = Timeline()
    for at_ns, size_bytes in moves:
        timeline.note(at_ns, size_bytes)
    return timeline


def test_of_what_comes_within_a_millisecond_the_most_is_kept() -> None:
    found = noted([(0, 5.9), (10, 7.2), (20, 6.0), (NS_PER_MS, 1.0)])
    assert list(found.times_ns) == [0, NS_PER_MS]
    assert list(found.sizes) == [7, 1]


def test_a_long_run_takes_no_more_room_and_keeps_its_peak() -> None:
    moves = [(n * 2 * NS_PER_MS, float(n % 100)) for n in range(20_000)]
    moves[9_321] = (moves[9_321][0], 12_345.0)
    found = noted(moves)
    assert 1_000 <= len(found.sizes) <= 4_000
    assert max(found.sizes) == 12_345
    assert len(found.times_ns) == len(found.sizes)
    assert moves[-1][0] - found.times_ns[-1] < 64 * NS_PER_MS


@given(st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 1e12)), max_size=50))
def test_points_are_in_order_and_none_is_above_what_was_noted(
    steps: list[tuple[int, float]],
) -> None:
    at_ns, moves = 0, []
    for step_ns, size_bytes in steps:
        at_ns += step_ns
        moves.append((at_ns, size_bytes))
    found = noted(moves)
    assert list(found.times_ns) == sorted(found.times_ns)
    assert max(found.sizes, default=0) == int(max((size for _, size in moves), default=0))
