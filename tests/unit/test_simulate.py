# SPDX-License-Identifier: Apache-2.0
"""The host model around the policy: growth at a line, freezes, late calls, the agents' share."""

from __future__ import annotations

import pytest

from agentcgroup.simulate.host import HostModel
from agentcgroup.simulate.process import CallPlan, Process, SessionPlan
from agentcgroup.simulate.world import World
from agentcgroup.types.intents import Intent
from agentcgroup.units import MIB

MS = 1_000_000
S = 1_000 * MS


def plan(*levels: tuple[float, int], begin_s: float = 0.0, base: int = 0) -> CallPlan:
    """Levels as (seconds, MiB)."""
    steps = [(int(at_s * S), size * MIB) for at_s, size in levels]
    return CallPlan(int(begin_s * S), steps, base * MIB, Intent())


def session(name: str, priority: str, *calls: CallPlan, reserve: int = 0) -> SessionPlan:
    return SessionPlan(name, priority, calls, reserve * MIB)


SPEED = MIB / MS  # a MiB a millisecond


def test_a_process_stops_at_its_line_and_goes_on_when_it_is_raised() -> None:
    process = Process(plan((0, 100), (1, 20), (2, 0)), 64 * MIB, SPEED)
    assert process.turn(0) == pytest.approx(64 * MS, abs=2)
    process.settle(64 * MS)
    assert process.turn(64 * MS) is None
    assert process.held_bytes == 64 * MIB and process.at_line
    process.settle(100 * MS)
    process.line_bytes = 200 * MIB
    assert process.turn(100 * MS) == pytest.approx(136 * MS, abs=2)
    process.settle(137 * MS)
    assert process.turn(137 * MS) == 1000 * MS
    assert process.grew_ns == [137 * MS] and process.throttled_ns == 36 * MS
    process.settle(1000 * MS)
    assert process.turn(1000 * MS) == 2000 * MS
    assert process.held_bytes == 20 * MIB and not process.done
    process.settle(2500 * MS)
    assert process.turn(2500 * MS) is None and process.done


@pytest.mark.parametrize(("catches_up", "last_ns"), [(True, 150 * MS), (False, 200 * MS)])
def test_a_frozen_process_stands_still(catches_up: bool, last_ns: int) -> None:
    """What came late follows at once, or goes on where it stopped."""
    process = Process(plan((0, 100), (0.15, 100)), 1 << 40, SPEED, catches_up)
    process.turn(0)
    process.settle(30 * MS)
    process.frozen = True
    assert process.turn(30 * MS) is None
    process.settle(80 * MS)
    assert process.held_bytes == 30 * MIB
    process.frozen = False
    due = process.turn(80 * MS)
    assert due == pytest.approx(150 * MS, abs=2)
    process.settle(151 * MS)
    assert process.turn(150 * MS + 2) in ((None,) if catches_up else (last_ns, None))


def test_enough_memory_means_nobody_waits() -> None:
    calls = [plan((0, 100), (1, 200), (2, 50)), plan((0, 10), begin_s=3)]
    result = World(2048 * MIB, [session("a", "high", *calls), session("b", "low", *calls)]).run()
    assert not result.lost and len(result.calls) == 4
    assert result.makespan_ns < 3.2 * S
    assert all(call.waited_ns + call.frozen_ns == 0 for call in result.calls.values())
    # A burst from rest meets its line once, for as long as the event takes.
    assert all(call.throttled_ns <= 4 * MS for call in result.calls.values())


def test_twins_that_do_not_fit_together_go_one_after_the_other() -> None:
    slow = plan((0, 600), (2, 0))
    twins = [session("a", "low", slow, plan((0, 10), begin_s=2.5)), session("b", "low", slow)]
    result = World(1000 * MIB, twins).run()
    assert not result.lost
    assert result.most_held_bytes <= 1000 * MIB
    assert any(call.frozen_ns + call.waited_ns > S for call in result.calls.values())


def test_a_late_call_makes_the_next_ones_late() -> None:
    whole = CallPlan(0, [(0, 0), (2 * S, 800 * MIB), (3 * S, 0)], 0, Intent(memory=900 * MIB))
    later = plan((0, 10), (0.1, 0), begin_s=3.5)
    sessions = [session("a", "normal", whole), session("b", "normal", whole, later)]
    result = World(1000 * MIB, sessions).run()
    assert not result.lost
    assert result.end_ns["b"] > 6.5 * S


@pytest.mark.parametrize("total_mib", [1300, 1100, 900])
@pytest.mark.parametrize("growth_mib_per_s", [300, 1000])
def test_three_that_do_not_fit_together_all_survive(total_mib: int, growth_mib_per_s: int) -> None:
    """Peaks of 430, 410 and 410 MiB; the high one is never held up."""
    high = plan((0, 12), (0.1, 190), (4, 320), (5, 190), (10, 210), base=110)
    low = plan((0, 12), (0.1, 190), (5.5, 300), (6.5, 200), (7.7, 300), (8.6, 210), (10, 210),
               base=110)  # fmt: skip
    sessions = [
        session("high", "high", high, reserve=16),
        session("low-1", "low", low, reserve=16),
        session("low-2", "low", low, reserve=16),
    ]
    host = HostModel(growth_bytes_per_s=growth_mib_per_s * MIB)
    result = World(total_mib * MIB, sessions, host=host).run()
    assert not result.lost
    assert result.calls["c1"].throttled_ns == 0
    assert result.most_held_bytes + 3 * 16 * MIB <= total_mib * MIB
    assert result.makespan_ns < 14 * S


def test_agents_are_counted_and_an_overrun_is_told() -> None:
    agent = ((0, 700 * MIB), (S, 900 * MIB))
    big = SessionPlan("a", "normal", [plan((0, 200), (2, 0))], 0, None, agent)
    result = World(1000 * MIB, [big]).run()
    assert result.overrun_ns > 0
    assert not World(1200 * MIB, [big]).run().overrun_ns


def test_what_can_never_run_is_refused() -> None:
    huge = CallPlan(0, [(0, 0)], 0, Intent(memory=2048 * MIB))
    result = World(1000 * MIB, [session("a", "normal", huge)]).run()
    assert [call.reason for call in result.lost] == ["over_budget"]
