# SPDX-License-Identifier: Apache-2.0
"""A command that was killed for memory and comes again: refused, re-planned or let through."""

from __future__ import annotations

from typing import Any

import pytest
from policy_story import MS, S, Story, of

from agentcgroup.policy.engine import next_deadline_ns
from agentcgroup.policy.state import CallPhase, RepeatOom
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.actions import Code
from agentcgroup.types.outcomes import Reason
from agentcgroup.types.sessions import Mode
from agentcgroup.units import GIB, MIB

HOG = "pytest -q tests/test_big.py"


def killed(story: Story, call: str, peak: int) -> None:
    story.feed(i.CallEnd(story.now_ns, call, peak, oom_killed=True))


def after_oom(cap: int | None = 256 * MIB, peak: int = 256 * MIB, **config: Any) -> Story:
    story = Story(4 * GIB, **config)
    story.session("s", budget_bytes=GIB)
    story.begin("s", "c1", command=HOG, memory_max=cap)
    killed(story, "c1", peak)
    return story


@pytest.mark.parametrize("cap", [256 * MIB, 128 * MIB])
@pytest.mark.parametrize("command", [HOG, f"  {HOG.replace(' ', '   ')} # agentcgroup: memory=9G"])
def test_the_same_again_is_refused_with_the_reason(cap: int, command: str) -> None:
    story = after_oom()
    (refusal,) = story.begin("s", "c2", command=command, memory_max=cap)
    assert isinstance(refusal, act.Refuse) and refusal.kind == "refused"
    assert refusal.because.code is Code.REPEATS_OOM
    assert "256 MiB" in refusal.because.text and "c1" in refusal.because.text
    assert "memory_max=512 MiB" in refusal.remedy and "retry_of=c1" in refusal.remedy
    assert "c2" not in story.state.calls


def full_session(agent: int = 150 * MIB, **config: Any) -> Story:
    """A hog alone in a session of 400 MiB whose agent grew while it ran."""
    story = Story(4 * GIB, **config)
    story.session("s", budget_bytes=400 * MIB, reserve_bytes=64 * MIB)
    story.begin("s", "c1", command=HOG, memory=64 * MIB)
    story.feed(i.AgentSample(story.now_ns, "s", agent))
    grow(story, "c1")
    return story


def grow(story: Story, call: str) -> None:
    for _ in range(32):
        story.now_ns += 20 * MS
        story.meet_line(call, story.state.calls[call].grant_bytes)


def test_who_holds_all_its_session_has_is_out_of_memory() -> None:
    story = full_session()
    # Somebody else who works is no hope for it.
    story.session("other")
    story.begin("other", "o1", memory="100M")
    assert story.state.calls["c1"].grant_bytes == 250 * MIB
    story.run_until_quiet(5)
    (kill,) = of(act.Kill, story.log)
    assert (kill.call, kill.reason) == ("c1", Reason.OOM_KILLED.value)
    assert kill.because.code is Code.SESSION_FULL
    assert "250 MiB for tool calls beside 150 MiB of its agent" in kill.because.text
    assert story.now_ns < 5 * S


def test_it_waits_if_the_agent_may_give_back_what_it_took() -> None:
    story = full_session()
    story.later(100 * MS)
    story.feed(i.AgentSample(story.now_ns, "s", 100 * MIB))
    story.run_until_quiet(5)
    assert not of(act.Kill, story.log)
    assert story.state.calls["c1"].blocked_since_ns is None


def test_one_high_reading_kills_nobody() -> None:
    story = Story(4 * GIB)
    story.session("s", budget_bytes=1000 * MIB)
    story.begin("s", "a", memory=600 * MIB)
    story.begin("s", "b", memory=200 * MIB)
    for _ in range(32):
        story.now_ns += 20 * MS
        story.meet_line("b", story.state.calls["b"].grant_bytes)
        story.sample("a", 500 * MIB)
    assert story.state.calls["b"].blocked_since_ns is not None
    for _ in range(100):  # ten seconds, in which the other one works
        story.now_ns += 100 * MS
        story.sample("a", 500 * MIB)
    story.feed(i.AgentSample(story.now_ns, "s", 700 * MIB))
    story.later(500 * MS)
    story.feed(i.AgentSample(story.now_ns, "s", 10 * MIB))
    story.later(600 * MS)
    assert not of(act.Kill, story.log)


def test_who_holds_page_cache_of_its_own_gives_that_back() -> None:
    story = Story(4 * GIB)
    story.session("s", budget_bytes=1000 * MIB, reserve_bytes=200 * MIB)
    story.begin("s", "c1", command=HOG, memory=64 * MIB)
    story.feed(i.AgentSample(story.now_ns, "s", 210 * MIB))
    grow(story, "c1")
    held = story.state.calls["c1"].grant_bytes
    assert held == 790 * MIB
    story.feed(i.CallSample(story.now_ns, "c1", held, 700 * MIB))
    story.later(300 * MS)
    asked = of(act.Reclaim, story.log)
    assert {action.call for action in asked} == {"c1"}
    back = sum(action.amount_bytes for action in asked)
    story.feed(i.CallSample(story.now_ns, "c1", held - back, 600 * MIB))
    story.run_until_quiet(5)
    assert not of(act.Kill, story.log)
    assert story.state.calls["c1"].phase is CallPhase.RUNNING


def test_a_burst_to_the_cap_needs_no_memory_to_go_on() -> None:
    story = Story(8 * GIB)
    story.session("s")
    story.begin("s", "c1", command=HOG, memory=128 * MIB, memory_max=300 * MIB)
    story.sample("c1", 300 * MIB)
    story.run_until_quiet(5)
    assert story.state.calls["c1"].grant_bytes == 300 * MIB
    assert not of(act.Kill, story.log)


def test_a_larger_budget_is_another_try() -> None:
    story = full_session()
    story.run_until_quiet(5)
    killed(story, "c1", 250 * MIB)
    story.feed(i.SessionUpdate(story.now_ns, "s", budget_bytes=430 * MIB))
    (place,) = story.begin("s", "c2", command=HOG)
    assert isinstance(place, act.Place)


def test_the_hosts_room_is_what_counts_the_next_time() -> None:
    story = Story(1000 * MIB)
    story.session("s")
    story.session("t")
    story.begin("s", "c1", command=HOG, memory=64 * MIB)
    story.feed(i.AgentSample(story.now_ns, "t", 400 * MIB))
    grow(story, "c1")
    story.run_until_quiet(5)
    killed(story, "c1", 600 * MIB)
    (refusal,) = story.begin("s", "c2", command=HOG)
    assert isinstance(refusal, act.Refuse)


def test_nothing_is_due_again_and_again_while_someone_dies() -> None:
    story = full_session()
    story.begin("s", "c2", memory=8 * MIB, max_wait_s=100)
    story.later(100 * MS)
    story.later(2 * S)
    assert of(act.Kill, story.log)
    due = next_deadline_ns(story.state)
    assert due is None or due > story.now_ns


def test_all_the_host_has_is_told_as_the_hosts() -> None:
    story = Story(300 * MIB)
    story.session("s")
    story.session("t")
    story.begin("s", "c1", command=HOG, memory=64 * MIB)
    story.feed(i.AgentSample(story.now_ns, "t", 100 * MIB))
    grow(story, "c1")
    story.run_until_quiet(5)
    (kill,) = of(act.Kill, story.log)
    assert kill.because.code is Code.HOST_FULL and "200 MiB" in kill.because.text


@pytest.mark.parametrize("agent", [150 * MIB, 160 * MIB, 130 * MIB])
def test_all_the_session_had_is_no_more_the_next_time(agent: int) -> None:
    story = full_session()
    story.run_until_quiet(5)
    killed(story, "c1", 250 * MIB)
    story.feed(i.AgentSample(story.now_ns, "s", agent))
    (refusal,) = story.begin("s", "c2", command=HOG)
    assert isinstance(refusal, act.Refuse)
    assert "250 MiB" in refusal.because.text and "the session has no more" in refusal.remedy


def test_a_smaller_agent_leaves_room_for_another_try() -> None:
    story = full_session()
    story.run_until_quiet(5)
    killed(story, "c1", 250 * MIB)
    story.feed(i.AgentSample(story.now_ns, "s", 64 * MIB))
    (place,) = story.begin("s", "c2", command=HOG)
    assert isinstance(place, act.Place)


@pytest.mark.parametrize(
    "intent",
    [
        {"command": HOG, "memory_max": 257 * MIB},
        {"command": HOG},
        {"command": HOG, "memory_max": 256 * MIB, "retry_of": "c1"},
        {"command": HOG, "memory_max": 256 * MIB, "swap_max": MIB},
        {"command": HOG + " -k one", "memory_max": 256 * MIB},
        {"memory_max": 256 * MIB},
    ],
    ids=["more", "all there is", "changed", "swap", "another command", "no command"],
)
def test_what_may_go_better_begins(intent: dict[str, Any]) -> None:
    (place,) = after_oom().begin("s", "c2", **intent)
    assert isinstance(place, act.Place) and place.because.code is Code.ADMITTED


def test_retry_of_another_call_does_not_help() -> None:
    story = after_oom()
    assert of(act.Refuse, story.begin("s", "c2", command=HOG, memory_max=MIB, retry_of="c9"))


def test_nothing_more_to_have() -> None:
    story = after_oom(cap=None, peak=GIB)
    (refusal,) = story.begin("s", "c2", command=HOG)
    assert isinstance(refusal, act.Refuse)
    assert "no more" in refusal.remedy and "retry_of=c1" in refusal.remedy
    story = after_oom(cap=None, peak=GIB, repeat_oom=RepeatOom.REPLAN)
    assert of(act.Refuse, story.begin("s", "c2", command=HOG))


def test_replan_gives_twice_as_much_as_far_as_there_is() -> None:
    story = after_oom(repeat_oom=RepeatOom.REPLAN)
    (place,) = story.begin("s", "c2", command=HOG, memory_max=256 * MIB, on_exceed="kill")
    assert place.because.code is Code.REPLANNED and "c1" in place.because.text
    assert place.limits.memory_max_bytes == 512 * MIB
    killed(story, "c2", 512 * MIB)
    (place,) = story.begin("s", "c3", command=HOG, memory_max=256 * MIB)
    assert place.limits.memory_max_bytes == GIB
    killed(story, "c3", GIB)
    (refusal,) = story.begin("s", "c4", command=HOG, memory_max=256 * MIB)
    assert isinstance(refusal, act.Refuse)


def test_a_command_that_others_crowded_out_asks_for_what_it_needs() -> None:
    story = after_oom(cap=None, peak=400 * MIB)
    (place,) = story.begin("s", "c2", command=HOG, memory=100 * MIB)
    assert place.because.code is Code.REPLANNED
    assert place.limits.memory_high_bytes == 600 * MIB
    story.end("c2")
    story = after_oom(cap=None, peak=400 * MIB)
    (place,) = story.begin("s", "c2", command=HOG, memory=700 * MIB)
    assert place.because.code is Code.ADMITTED


def test_forgotten_when_it_got_by() -> None:
    story = after_oom()
    story.begin("s", "c2", command=HOG, memory_max=256 * MIB, retry_of="c1")
    story.feed(i.CallEnd(story.now_ns, "c2", 100 * MIB))
    assert of(act.Place, story.begin("s", "c3", command=HOG, memory_max=256 * MIB))


def test_a_call_cut_short_teaches_nothing() -> None:
    story = after_oom()
    story.begin("s", "c2", command=HOG, memory_max=256 * MIB, retry_of="c1")
    story.feed(i.CallEnd(story.now_ns, "c2"))
    assert of(act.Refuse, story.begin("s", "c3", command=HOG, memory_max=256 * MIB))


def test_only_in_its_own_session_and_only_where_limits_are_enforced() -> None:
    story = after_oom()
    story.session("t")
    assert of(act.Place, story.begin("t", "c2", command=HOG, memory_max=256 * MIB))
    story.feed(i.SessionUpdate(story.now_ns, "s", mode=Mode.OBSERVE))
    assert of(act.Place, story.begin("s", "c3", command=HOG, memory_max=256 * MIB))
    story = after_oom(repeat_oom=RepeatOom.ALLOW)
    assert of(act.Place, story.begin("s", "c2", command=HOG, memory_max=256 * MIB))


def test_memory_of_failures_is_bounded() -> None:
    story = Story(4 * GIB)
    story.session("s")
    for number in range(200):
        story.begin("s", f"c{number}", command=f"cmd {number}", memory_max=64 * MIB)
        killed(story, f"c{number}", 64 * MIB)
    assert len(story.state.sessions["s"].oomed) == 64
    assert of(act.Place, story.begin("s", "a", command="cmd 1", memory_max=64 * MIB))
    assert of(act.Refuse, story.begin("s", "b", command="cmd 199", memory_max=64 * MIB))
