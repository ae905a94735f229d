# SPDX-License-Identifier: Apache-2.0
"""One call after another through policy: begin, wait, grow, stand still, end."""

from __future__ import annotations

import pytest
from policy_story import MS, S, Story, of

from agentcgroup.errors import InvalidValueError
from agentcgroup.policy.engine import next_deadline_ns
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.types.sessions import Mode
from agentcgroup.units import GIB, MIB


def test_a_call_that_fits_is_placed_with_its_grant_and_the_tools_cap() -> None:
    story = Story(GIB)
    story.session("a", budget_bytes=512 * MIB, reserve_bytes=64 * MIB)
    (placed,) = story.begin("a", "c1", memory="200M")
    assert isinstance(placed, act.Place)
    assert placed.limits.memory_high_bytes == 200 * MIB
    assert placed.limits.memory_max_bytes == 448 * MIB
    assert placed.limits.swap_max_bytes == 0
    assert placed.limits.pids_max == 512


def test_nothing_declared_means_the_default_grant() -> None:
    """For who is to finish first: what is kept for it anyway."""
    story = Story()
    story.session("a", Priority.HIGH)
    story.session("b")
    (first,) = story.begin("a", "c1")
    assert first.limits.memory_high_bytes == PolicyConfig().reach_bytes
    (second,) = story.begin("b", "c2")
    assert second.limits.memory_high_bytes == PolicyConfig().default_grant_bytes


def test_what_can_never_fit_is_refused_with_a_remedy() -> None:
    story = Story(GIB)
    story.session("a", budget_bytes=512 * MIB)
    (refused,) = story.begin("a", "c1", memory="800M")
    assert isinstance(refused, act.Refuse)
    assert refused.kind == "over_budget"
    assert "512 MiB" in refused.remedy
    assert not story.state.calls


def test_what_does_not_fit_now_waits_and_is_placed_when_memory_is_back() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="900M")
    (waits,) = story.begin("a", "c2", memory="700M")
    assert isinstance(waits, act.Wait)
    assert of(act.Place, story.end("c1"))[0].call == "c2"


def test_a_call_begins_with_a_part_of_what_it_declared_when_no_more_is_free() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="700M")
    (placed,) = story.begin("a", "c2", memory="700M")
    assert placed.limits.memory_high_bytes == 324 * MIB
    assert placed.limits.memory_max_bytes == GIB


def test_the_queue_is_by_priority_then_age() -> None:
    story = Story(GIB)
    for name, priority in (("low", Priority.LOW), ("high", Priority.HIGH)):
        story.session(name, priority)
    story.begin("low", "c1", memory="900M")
    story.sample("c1", 800 * MIB)
    story.begin("low", "c2", memory="900M")
    story.begin("high", "c3", memory="900M")
    assert [p.call for p in of(act.Place, story.end("c1"))] == ["c3"]


def test_a_wait_ends_with_a_refusal_after_max_wait() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="900M")
    story.begin("a", "c2", memory="900M", max_wait_s=10)
    assert not of(act.Refuse, story.later(9 * S))
    (refused,) = of(act.Refuse, story.later(2 * S))
    assert (refused.call, refused.kind) == ("c2", "wait_timeout")


def test_a_growing_call_gets_more_before_it_hits_its_line() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="128M")
    (grant,) = of(act.SetGrant, story.sample("c1", 120 * MIB))
    assert grant.grant_bytes > 128 * MIB
    assert grant.because.code is act.Code.GROWING


def test_growth_stops_at_the_cap() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="128M", memory_max="150M")
    story.sample("c1", 126 * MIB)
    assert story.state.calls["c1"].grant_bytes == 150 * MIB
    assert story.sample("c1", 150 * MIB) == []


def test_an_unused_grant_is_taken_back_after_a_while() -> None:
    story = Story(GIB)
    story.session("a")
    story.session("first", Priority.HIGH)
    story.begin("first", "c0", memory="64M")
    story.begin("a", "c1")
    for current in range(100, 600, 40):
        story.sample("c1", current * MIB)
    grown = story.state.calls["c1"].grant_bytes
    story.sample("c1", 50 * MIB)
    story.now_ns += 300 * MS
    (taken,) = of(act.SetGrant, story.sample("c1", 50 * MIB))
    assert taken.because.code is act.Code.UNUSED
    assert 128 * MIB <= taken.grant_bytes < grown


def test_a_declared_grant_is_not_taken_back() -> None:
    story = Story(GIB)
    story.session("a")
    story.begin("a", "c1", memory="600M")
    story.sample("c1", 10 * MIB)
    story.now_ns += S
    assert of(act.SetGrant, story.sample("c1", 10 * MIB)) == []


def test_throttle_is_bounded_then_frozen_then_thawed_with_a_grant() -> None:
    story = Story(512 * MIB, deadlock_after_ns=100 * S)
    story.session("high", Priority.HIGH)
    story.session("low", Priority.LOW)
    story.begin("high", "h", memory="370M")
    story.sample("h", 350 * MIB)
    story.begin("low", "l", memory="128M")
    story.meet_line("l", 128 * MIB)
    assert not of(act.Freeze, story.later(100 * MS))
    assert of(act.Freeze, story.later(200 * MS))[0].call == "l"
    actions = story.end("h")
    assert of(act.SetGrant, actions)[0].call == "l"
    assert of(act.Thaw, actions)[0].call == "l"


def test_on_exceed_wait_freezes_at_once_and_is_killed_after_its_wait() -> None:
    story = Story(512 * MIB)
    story.session("a")
    story.session("b", Priority.HIGH)
    story.begin("b", "big", memory="350M")
    story.sample("big", 300 * MIB)
    story.begin("a", "c1", memory="150M", on_exceed="wait", max_wait_s=5)
    assert of(act.Freeze, story.meet_line("c1", 150 * MIB))
    assert not of(act.Kill, story.later(4 * S))
    (killed,) = of(act.Kill, story.later(2 * S))
    assert (killed.call, killed.reason) == ("c1", "killed_by_policy")


def test_on_exceed_kill_makes_the_expectation_the_cap() -> None:
    story = Story(GIB)
    story.session("a")
    (placed,) = story.begin("a", "c1", memory="100M", on_exceed="kill")
    assert placed.limits.memory_max_bytes == 100 * MIB


def test_a_call_that_is_restored_again_is_counted_once() -> None:
    """After each takeover from the guardian the daemon restores what it knows already."""
    story = Story(4 * GIB)
    story.session("a")
    for _ in range(3):
        story.feed(
            i.CallRestored(story.now_ns, "a", "c1", Intent(), 0, 300 * MIB, 200 * MIB, frozen=False)
        )
    assert story.state.calls_held_bytes == 300 * MIB
    assert story.state.sessions["a"].calls_held_bytes == 300 * MIB
    story.end("c1")
    assert story.state.calls_held_bytes == 0
    story.feed(i.SessionEnd(story.now_ns, "a"))
    story.session("b")
    (placed,) = story.begin("b", "c2")
    assert isinstance(placed, act.Place)


def test_a_deadlock_costs_one_call_the_lowest() -> None:
    story = Story(400 * MIB)
    for name, priority in (("high", Priority.HIGH), ("low", Priority.LOW)):
        story.session(name, priority)
    # Admission does not let it come to this; a daemon may find it when it comes back.
    for session, call in (("high", "h"), ("low", "l")):
        story.feed(
            i.CallRestored(0, session, call, Intent(), 0, 200 * MIB, 200 * MIB, frozen=False)
        )
    story.sample("h", 200 * MIB)
    story.sample("l", 200 * MIB)
    story.run_until_quiet(10)
    kills = of(act.Kill, story.log)
    assert [k.call for k in kills] == ["l"]
    assert kills[0].because.code is act.Code.DEADLOCK
    story.end("l")
    assert story.state.calls["h"].blocked_since_ns is None


def test_no_deadlock_while_somebody_can_still_finish() -> None:
    story = Story(400 * MIB)
    for name in ("a", "b", "c"):
        story.session(name)
    story.begin("c", "runs", memory="20M")
    story.begin("a", "x", memory="180M")
    story.begin("b", "y", memory="180M")
    story.sample("x", 190 * MIB)
    story.sample("y", 190 * MIB)
    story.run_until_quiet(60)
    assert of(act.Kill, story.log) == []


def test_timeout_is_sigterm_then_grace_then_kill() -> None:
    story = Story()
    story.session("a")
    story.begin("a", "c1", timeout_s=10)
    assert of(act.Terminate, story.later(10 * S))
    assert not of(act.Kill, story.later(4 * S))
    (killed,) = of(act.Kill, story.later(2 * S))
    assert killed.reason == "timed_out"


def test_mode_off_grants_without_limits() -> None:
    story = Story(256 * MIB)
    story.session("a", mode=Mode.OFF)
    assert isinstance(story.begin("a", "c1", memory="300M")[0], act.Place)
    assert story.sample("c1", 400 * MIB) == []


def test_the_end_of_a_session_kills_its_calls() -> None:
    story = Story()
    story.session("a")
    story.begin("a", "c1")
    (killed,) = of(act.Kill, story.feed(i.SessionEnd(0, "a")))
    assert killed.call == "c1"
    assert not story.state.calls


def test_unknown_names_are_errors() -> None:
    with pytest.raises(InvalidValueError, match="no such session"):
        Story().begin("nobody", "c1")


def test_a_restored_call_keeps_its_grant_and_its_freeze() -> None:
    story = Story(512 * MIB)
    story.session("a")
    story.feed(i.CallRestored(0, "a", "c1", Intent(), -5 * S, 200 * MIB, 180 * MIB, frozen=True))
    assert story.log == [], "decisions wait until every call is known"
    story.feed(i.Tick(0))
    assert [type(a) for a in story.log] == [act.SetGrant, act.Thaw]
    assert story.state.calls["c1"].grant_bytes > 200 * MIB


def test_a_kill_that_is_only_observed_leaves_no_deadline_behind() -> None:
    """Nobody applies it: the call runs on, and the timer must come to rest all the same."""
    story = Story(term_grace_ns=S)
    story.session("watched", mode=Mode.OBSERVE)
    story.begin("watched", "c", timeout_s=10)
    story.run_until_quiet()
    assert [type(a) for a in story.log if isinstance(a, act.Terminate | act.Kill)] == [
        act.Terminate,
        act.Kill,
    ]
    assert next_deadline_ns(story.state) is None
    story.sample("c", 200 * MIB)
    assert next_deadline_ns(story.state) is None


def test_mode_off_has_no_timeout_and_writes_no_new_limits() -> None:
    story = Story()
    story.session("s", mode=Mode.OFF)
    story.begin("s", "c", timeout_s=1)
    story.feed(i.SessionUpdate(0, "s", Priority.HIGH))
    story.run_until_quiet()
    assert [type(a) for a in story.log] == [act.Place]


def test_an_observed_victim_does_not_stand_for_a_real_one() -> None:
    """The deadlock goes on after a kill that nobody applied: the next one is real."""
    story = Story(budget=384 * MIB, deadlock_after_ns=S)
    story.session("watched", Priority.LOW, mode=Mode.OBSERVE)
    story.session("held", Priority.HIGH)
    for session, call in (("watched", "a"), ("held", "b"), ("held", "c")):
        story.begin(session, call, memory=128 * MIB, max_wait_s=100)
    for current in (100, 128):
        for call in "abc":
            story.meet_line(call, current * MIB)
    for _ in range(30):
        story.later(100 * MS)
    killed = [a.call for a in story.log if isinstance(a, act.Kill)]
    assert killed[0] == "a" and len(killed) >= 2 and killed[1] in "bc"


def test_a_small_declared_grant_is_not_raised_for_nothing() -> None:
    story = Story(200 * MIB)
    story.session("a")
    story.begin("a", "idle", memory="16M")
    assert story.sample("idle", 250 << 10) == []
    assert isinstance(story.begin("a", "next", memory="150M")[0], act.Place)
