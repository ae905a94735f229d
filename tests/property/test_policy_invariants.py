# SPDX-License-Identifier: Apache-2.0
"""What must hold after every step of any order of events (DESIGN: policy invariants)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.policy.accounting import host_free_bytes, session_free_bytes
from agentcgroup.policy.engine import new_state, next_deadline_ns, step
from agentcgroup.policy.state import CallPhase, PolicyState
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, OnExceed, Priority
from agentcgroup.units import MIB

BUDGET = 1000 * MIB
MS = 1_000_000
SESSIONS = ("high", "low", "mid")
PRIORITIES = {"high": Priority.HIGH, "low": Priority.LOW, "mid": Priority.NORMAL}

intents = st.builds(
    Intent,
    memory=st.none() | st.integers(16, 700).map(lambda m: m * MIB),
    on_exceed=st.none() | st.sampled_from(list(OnExceed)),
    timeout_s=st.none() | st.floats(1, 60),
    max_wait_s=st.none() | st.floats(0.5, 30),
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(SESSIONS), intents),
        st.tuples(st.just("grow"), st.integers(0, 9), st.integers(-200, 200)),
        st.tuples(st.just("high"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 3000), st.just(0)),
    ),
    max_size=60,
)


class Host:
    """The smallest model of the kernel: usage never passes the grant that policy gave."""

    def __init__(self, order: Sequence[str] = SESSIONS) -> None:
        self.state = new_state(BUDGET)
        self.now_ns = 0
        self.begun = 0
        self.actions: list[act.Action] = []
        for name in order:
            self.feed(i.SessionBegin(0, name, PRIORITIES[name], None, 20 * MIB))

    def feed(self, what: i.Input) -> None:
        self.state, actions = step(self.state, what)
        self.actions += actions
        for action in actions:
            if isinstance(action, act.Kill):
                self.state, more = step(self.state, i.CallEnd(self.now_ns, action.call))
                self.actions += more
        check(self.state)

    def play(self, event: tuple[str, object, object]) -> None:
        kind, which, what = event
        self.now_ns += MS
        if kind == "begin":
            self.begun += 1
            assert isinstance(what, Intent)
            self.feed(i.CallBegin(self.now_ns, str(which), f"c{self.begun}", what))
        elif kind == "wait":
            assert isinstance(which, int)
            self.pass_time(which * MS)
        else:
            assert isinstance(which, int)
            self.to_call(kind, which, what)

    def to_call(self, kind: str, which: int, what: object) -> None:
        running = [c for c in self.state.calls.values() if c.runs]
        if not running:
            return
        call = running[which % len(running)]
        if kind == "end":
            self.feed(i.CallEnd(self.now_ns, call.name))
        elif kind == "high":
            self.feed(i.MemoryHigh(self.now_ns, call.name, call.grant_bytes))
        elif call.phase is CallPhase.RUNNING:
            assert isinstance(what, int)
            current = max(MIB, min(call.grant_bytes, call.current_bytes + what * MIB))
            self.feed(i.CallSample(self.now_ns, call.name, current))

    def pass_time(self, ns: int) -> None:
        end_ns = self.now_ns + ns
        while (due := next_deadline_ns(self.state)) is not None and due <= end_ns:
            self.now_ns = max(self.now_ns + 1, due)
            self.feed(i.Tick(self.now_ns))
        self.now_ns = max(self.now_ns, end_ns)


def check(state: PolicyState) -> None:
    assert state.overhead_bytes == sum(s.overhead_bytes for s in state.sessions.values())
    assert state.active == {name: s for name, s in state.sessions.items() if s.calls}
    of_rank = [s.priority.rank for s in state.active.values()]
    assert state.active_of_rank == [of_rank.count(rank) for rank in range(3)]
    for session in state.sessions.values():
        held = sum(call.held_bytes for call in session.calls.values())
        assert session.calls_held_bytes == held
    assert state.calls_held_bytes == sum(call.held_bytes for call in state.calls.values())
    assert state.waiting == {name: c for name, c in state.calls.items() if c.waits}
    assert state.timed == {name: c for name, c in state.calls.items() if c.is_timed}
    assert host_free_bytes(state) >= 0, "grants and reserves exceed the host's budget"
    for session in state.sessions.values():
        assert session_free_bytes(state, session) >= 0
        assert set(session.calls) == {
            c for c, s in state.calls.items() if s.session == session.name
        }
    for call in state.calls.values():
        assert call.phase is CallPhase.QUEUED or call.grant_bytes <= call.cap_bytes
        assert (call.phase is CallPhase.FROZEN) == (call.frozen_since_ns is not None)
        if call.phase is CallPhase.FROZEN:
            assert call.blocked_since_ns is not None, "frozen for no reason stays frozen"


@settings(max_examples=150, deadline=None)
@given(events)
def test_sums_hold_and_every_wait_ends(story: list[tuple[str, object, object]]) -> None:
    host = Host()
    for event in story:
        host.play(event)
    host.pass_time(400 * 1000 * MS)
    waiting = [
        c
        for c in host.state.calls.values()
        if c.phase in (CallPhase.QUEUED, CallPhase.FROZEN) or c.blocked_since_ns is not None
    ]
    assert not waiting, "somebody still waits after the longest wait allowed"


@settings(max_examples=60, deadline=None)
@given(events)
def test_the_same_inputs_give_the_same_actions(story: list[tuple[str, object, object]]) -> None:
    first, second = Host(), Host()
    for event in story:
        first.play(event)
        second.play(copy.deepcopy(event))
    assert first.actions == second.actions


@settings(max_examples=60, deadline=None)
@given(events)
def test_every_action_says_why(story: list[tuple[str, object, object]]) -> None:
    host = Host()
    for event in story:
        host.play(event)
    assert all(action.because.text for action in host.actions)
