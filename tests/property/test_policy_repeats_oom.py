# SPDX-License-Identifier: Apache-2.0
"""Repeated commands in any order: who is refused had its kill, and nobody is killed alike twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.policy.engine import new_state, step
from agentcgroup.policy.state import PolicyConfig, RepeatOom
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import GIB, MIB

COMMANDS = ("pytest", "make", "pip install x")
calls = st.tuples(
    st.sampled_from(("s", "t")),
    st.sampled_from(COMMANDS),
    st.integers(32, 1200).map(lambda mib: mib * MIB),  # what it needs
    st.none() | st.sampled_from([64 * MIB, 128 * MIB, 512 * MIB]),  # what it says
    st.booleans(),  # says retry_of
)
stories = st.lists(calls, max_size=30)


def play(
    story: list[tuple[str, str, int, int | None, bool]], mode: RepeatOom
) -> list[tuple[str, str, int | None, str, act.Action]]:
    """One call at a time, killed where it needs more than its cap: (session, command, cap it
    asked for, how it went, what policy said)."""
    state = new_state(4 * GIB, PolicyConfig(repeat_oom=mode))
    for session in ("s", "t"):
        state, _ = step(state, i.SessionBegin(0, session, Priority.NORMAL, GIB, 0))
    seen: list[tuple[str, str, int | None, str, act.Action]] = []
    killed: dict[tuple[str, str], str] = {}
    for number, (session, command, needs, cap, says) in enumerate(story):
        name = f"c{number}"
        retry_of = killed.get((session, command)) if says else None
        intent = Intent(command=command, memory_max=cap, retry_of=retry_of)
        state, (said,) = step(state, i.CallBegin(number, session, name, intent))
        if isinstance(said, act.Refuse):
            seen.append((session, command, cap, "refused", said))
            continue
        assert isinstance(said, act.Place) and said.limits.memory_max_bytes
        oom = needs > said.limits.memory_max_bytes
        peak = min(needs, said.limits.memory_max_bytes)
        state, _ = step(state, i.CallEnd(number, name, peak, oom))
        seen.append((session, command, said.limits.memory_max_bytes, "oom" if oom else "ok", said))
        if oom:
            killed[session, command] = name
        else:
            killed.pop((session, command), None)
        # Policy forgot its calls, whatever it remembers of them.
        assert not state.calls and state.calls_held_bytes == 0
    return seen


@settings(max_examples=150, deadline=None)
@given(stories, st.sampled_from(RepeatOom))
def test_who_is_refused_was_killed_with_at_least_as_much(
    story: list[tuple[str, str, int, int | None, bool]], mode: RepeatOom
) -> None:
    killed_at: dict[tuple[str, str], int] = {}
    for session, command, cap, how, said in play(story, mode):
        if how == "refused":
            assert mode is not RepeatOom.ALLOW
            assert isinstance(said, act.Refuse) and said.remedy and said.because.text
            assert (cap or GIB) <= killed_at[session, command]
        elif how == "oom":
            assert cap is not None
            killed_at[session, command] = cap
        else:
            killed_at.pop((session, command), None)


@settings(max_examples=150, deadline=None)
@given(stories, st.sampled_from([RepeatOom.REFUSE, RepeatOom.REPLAN]))
def test_no_kill_is_repeated_unless_something_is_said_to_have_changed(
    story: list[tuple[str, str, int, int | None, bool]], mode: RepeatOom
) -> None:
    unsaid = [(*call[:4], False) for call in story]
    killed_at: dict[tuple[str, str], int] = {}
    for session, command, cap, how, _ in play(unsaid, mode):
        if how == "oom":
            assert cap is not None and cap > killed_at.get((session, command), 0)
            killed_at[session, command] = cap
        elif how == "ok":
            killed_at.pop((session, command), None)
