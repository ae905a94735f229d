# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom: nobody dies for a schedule that a little patience makes possible."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from test_policy_invariants import BUDGET, SESSIONS, Host, events

from agentcgroup.policy.accounting import barely_unused_bytes, free_for
from agentcgroup.policy.safety import missing_bytes
from agentcgroup.policy.state import CallPhase, CallState, PolicyState
from agentcgroup.simulate.process import CallPlan, SessionPlan
from agentcgroup.simulate.world import World
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent
from agentcgroup.units import MIB

S = 10**9
Event = tuple[str, object, object]

levels = st.lists(st.integers(4, 850), min_size=1, max_size=4)
plans = st.lists(
    st.tuples(
        st.sampled_from(("high", "normal", "low")),
        st.integers(0, 2000),
        st.lists(st.tuples(st.integers(0, 1500), levels, st.integers(100, 1500)), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


# In the end two calls stand still for want of less than a MiB each, and one could have it.
LESS_THAN_A_CRUMB = [
    ("high", 0, [(0, [369], 100), (0, [657], 100)]),
    ("high", 0, [(121, [241], 100)]),
    ("normal", 0, [(0, [4, 134, 314], 161)]),
]


def session_plan(
    number: int, drawn: tuple[str, int, list[tuple[int, list[int], int]]]
) -> SessionPlan:
    """Each call declares exactly what it will need."""
    priority, at_ms, calls = drawn
    made = []
    for pause_ms, sizes, step_ms in calls:
        at_ms += pause_ms
        steps = [(n * step_ms * 10**6, size * MIB) for n, size in enumerate(sizes)]
        steps.append((len(sizes) * step_ms * 10**6, sizes[-1] * MIB))
        made.append(CallPlan(at_ms * 10**6, steps, 0, Intent(memory=max(sizes) * MIB)))
    return SessionPlan(f"s{number}", priority, made, 10 * MIB)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(plans)
@example(LESS_THAN_A_CRUMB)
def test_who_declares_the_truth_is_never_killed(
    drawn: list[tuple[str, int, list[tuple[int, list[int], int]]]],
) -> None:
    """One after the other they all fit, so a clairvoyant schedule kills nobody. (Who grows in
    the moment in which its unused grant is taken holds more than anybody planned with.)"""
    sessions = [session_plan(number, one) for number, one in enumerate(drawn)]
    result = World(BUDGET, sessions).run(limit_s=300)
    assume(result.most_overshoot_bytes < MIB)
    assert not result.lost
    assert result.overrun_ns == 0


@settings(max_examples=100, deadline=None)
@given(events)
def test_high_is_never_refused_while_memory_of_lower_ones_could_be_taken(
    story: list[Event],
) -> None:
    host = Host()
    for event in story:
        host.play(event)
        host.now_ns += 1
        host.feed(i.Tick(host.now_ns))
        for call in host.state.sessions["high"].calls.values():
            if call.waits:
                assert not could_have_more(host.state, call)


def could_have_more(state: PolicyState, call: CallState) -> bool:
    """Plainly: enough is unused, and nobody counts on what he declared and does not hold."""
    if any(missing_bytes(state, other) for other in state.calls.values()):
        return False
    if call.phase is CallPhase.QUEUED:
        needed = max(state.config.min_grant_bytes, call.intent.memory or 0)
        queued = [c for c in state.waiting.values() if c.phase is CallPhase.QUEUED]
        if min(queued, key=lambda c: (c.begun_ns, c.name)) is not call:
            return False
    elif call.grant_bytes >= call.cap_bytes:
        return False
    else:
        needed = state.config.step_bytes
    unused = sum(
        barely_unused_bytes(other)
        for other in state.calls.values()
        if other.session != call.session
    )
    return free_for(state, state.sessions[call.session]) + unused >= needed


@settings(max_examples=60, deadline=None)
@given(events, st.sampled_from(list(itertools.permutations(SESSIONS))))
def test_the_order_in_which_sessions_came_changes_nothing(
    story: list[Event], order: tuple[str, ...]
) -> None:
    first, second = Host(), Host(order)
    for event in story:
        first.play(event)
        second.play(event)
    assert sorted(map(repr, first.actions)) == sorted(map(repr, second.actions))
