# SPDX-License-Identifier: Apache-2.0
"""What policy keeps as sums is what adding up gives, after any order of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.policy import accounting
from agentcgroup.policy.accounting import (
    fair_share_bytes,
    free_for,
    host_free_bytes,
    leader,
    may_exceed_share,
    session_free_bytes,
)
from agentcgroup.policy.engine import new_state, step
from agentcgroup.policy.state import PolicyState, SessionState
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import MIB

SESSIONS = ("a", "b", "c", "d", "e")
MS = 1_000_000

sizes = st.integers(1, 400).map(lambda size: size * MIB)
intents = st.builds(Intent, memory=st.none() | sizes.filter(lambda size: size >= 16 * MIB))
events = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(SESSIONS), intents),
        st.tuples(st.just("sample"), st.integers(0, 9), sizes),
        st.tuples(st.just("high"), st.integers(0, 9), sizes),
        st.tuples(st.just("end"), st.integers(0, 9), st.none()),
        st.tuples(st.just("agent"), st.sampled_from(SESSIONS), sizes),
        st.tuples(st.just("priority"), st.sampled_from(SESSIONS), st.sampled_from(list(Priority))),
        st.tuples(st.just("budget"), st.none(), st.integers(500, 3000).map(lambda m: m * MIB)),
        st.tuples(st.just("tick"), st.integers(1, 2000), st.none()),
        st.tuples(st.just("leave"), st.sampled_from(SESSIONS), st.none()),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_sums_are_what_adding_up_gives(story: list[tuple[str, object, object]]) -> None:
    state, now_ns = new_state(1500 * MIB), 0
    for number, (kind, which, what) in enumerate(story):
        now_ns += (which if isinstance(which, int) and kind == "tick" else 1) * MS
        for event in inputs(state, kind, which, what, now_ns, f"c{number}"):
            state, _ = step(state, event)
            check(state)


def inputs(
    state: PolicyState, kind: str, which: object, what: object, now_ns: int, name: str
) -> list[i.Input]:
    if kind == "tick":
        return [i.Tick(now_ns)]
    if kind == "budget":
        assert isinstance(what, int)
        return [i.HostBudget(now_ns, what)]
    if isinstance(which, str):
        return [*came(state, which, now_ns), *of_session(kind, which, what, now_ns, name)]
    assert isinstance(which, int)
    calls = sorted(state.calls)
    if not calls:
        return []
    call = calls[which % len(calls)]
    if kind == "end":
        return [i.CallEnd(now_ns, call)]
    assert isinstance(what, int)
    return [i.CallSample(now_ns, call, what) if kind == "sample" else
            i.MemoryHigh(now_ns, call, what)]  # fmt: skip


def came(state: PolicyState, session: str, now_ns: int) -> list[i.Input]:
    if session in state.sessions:
        return []
    priority = list(Priority)[SESSIONS.index(session) % 3]
    return [i.SessionBegin(now_ns, session, priority, None, 20 * MIB)]


def of_session(
    kind: str, session: str, what: object, now_ns: int, name: str
) -> list[i.Input]:  # fmt: skip
    if isinstance(what, Intent):
        return [i.CallBegin(now_ns, session, name, what)]
    if isinstance(what, Priority):
        return [i.SessionUpdate(now_ns, session, priority=what)]
    if kind == "agent":
        assert isinstance(what, int)
        return [i.AgentSample(now_ns, session, what)]
    return [i.SessionEnd(now_ns, session)]


def check(state: PolicyState) -> None:
    for rank in (None, 0, 1, 2):
        assert leader(state, rank) is leader_by_looking(state, rank)
    for session in state.sessions.values():
        assert may_exceed_share(state, session) == nobody_else_is_beyond(state, session)
        for settled in (False, True):
            kept = kept_by_adding(state, session, settled)
            free = min(host_free_bytes(state) - kept, session_free_bytes(state, session))
            assert free_for(state, session, settled=settled) == free
            for enough in (0, MIB, 300 * MIB):
                found = free_for(state, session, settled=settled, enough_bytes=enough)
                assert found == enough <= free or found == free


def begun_ns(session: SessionState) -> int | None:
    return min((call.begun_ns for call in session.calls.values() if call.runs), default=None)


def leader_by_looking(state: PolicyState, rank: int | None) -> SessionState | None:
    found = [
        (session.priority.rank, begun, session.name)
        for session in state.sessions.values()
        if (begun := begun_ns(session)) is not None and rank in (None, session.priority.rank)
    ]
    return state.sessions[min(found)[2]] if found else None


def nobody_else_is_beyond(state: PolicyState, session: SessionState) -> bool:
    return not any(
        other.calls
        and other is not session
        and other.priority.rank <= session.priority.rank
        and other.held_bytes > fair_share_bytes(state, other)
        for other in state.sessions.values()
    )


def kept_by_adding(state: PolicyState, session: SessionState, settled: bool) -> int:
    eldest = leader_by_looking(state, session.priority.rank)
    kept = 0
    for other in state.sessions.values():
        if other is session or begun_ns(other) is None:
            continue
        if other.priority.rank < session.priority.rank:
            reach = fair_share_bytes(state, other)
        elif other is eldest:
            reach = other.held_bytes * (100 + state.config.elder_room_pct) // 100
        else:
            continue
        wanted = accounting._wanted_bytes(state, other, settled)
        kept += max(0, min(reach, wanted) - other.held_bytes)
    return kept
