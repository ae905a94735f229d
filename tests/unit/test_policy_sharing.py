# SPDX-License-Identifier: Apache-2.0
"""Who gets what is free, and what is taken from whom: shares, lending, page cache."""

from __future__ import annotations

from policy_story import MS, Story, of

from agentcgroup.policy.accounting import leader
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import GIB, MIB


def full_host() -> Story:
    """A high and a low call, `h` and `l`, that hold half of the host each."""
    story = Story(400 * MIB)
    for name, priority in (("high", Priority.HIGH), ("low", Priority.LOW)):
        story.session(name, priority)
    for session, call in (("high", "h"), ("low", "l")):
        story.feed(
            i.CallRestored(0, session, call, Intent(), 0, 200 * MIB, 200 * MIB, frozen=False)
        )
    return story


def test_unused_grants_of_others_are_lent_before_anybody_waits() -> None:
    story = Story(512 * MIB)
    story.session("low", Priority.LOW)
    story.session("high", Priority.HIGH)
    story.begin("low", "c1", memory="300M")
    story.sample("c1", 20 * MIB)
    story.begin("high", "c2", memory="200M")
    actions = story.sample("c2", 200 * MIB)
    assert [(a.call, a.because.code) for a in of(act.SetGrant, actions)] == [
        ("c1", act.Code.YIELD_TO_HIGHER),
        ("c2", act.Code.GROWING),
    ]


def test_a_lower_session_leaves_the_higher_ones_share_alone() -> None:
    story = Story(900 * MIB)
    story.session("high", Priority.HIGH)
    story.session("low", Priority.LOW)
    story.begin("high", "h")
    story.begin("low", "l")
    story.sample("h", 100 * MIB)
    for current in range(100, 900, 16):
        story.sample("l", min(current * MIB, story.state.calls["l"].grant_bytes))
    share_of_high = 900 * MIB * 4 // 6
    assert story.state.calls["l"].grant_bytes <= 900 * MIB - share_of_high


def test_among_equals_only_one_grows_beyond_its_share() -> None:
    story = Story(900 * MIB)
    for name in ("a", "b"):
        story.session(name)
        story.begin(name, f"c-{name}")
    for current in range(100, 600, 8):
        for name in ("a", "b"):
            call = story.state.calls[f"c-{name}"]
            story.sample(call.name, min(current * MIB, call.grant_bytes))
    share = 450 * MIB
    beyond = [c for c in story.state.calls.values() if c.held_bytes > share]
    assert len(beyond) == 1
    assert of(act.Kill, story.log) == []


def test_what_an_equal_did_not_declare_is_lent_to_who_begins() -> None:
    story = Story(256 * MIB)
    story.session("a")
    story.begin("a", "idle")
    story.sample("idle", 2 * MIB)
    actions = story.begin("a", "next", memory="200M")
    assert [type(a) for a in actions] == [act.SetGrant, act.Place]


def test_a_lower_ones_unused_grant_is_taken_for_a_higher_begin() -> None:
    story = Story(GIB)
    story.session("low", Priority.LOW)
    story.session("high", Priority.HIGH)
    story.begin("low", "l", memory="900M")
    story.sample("l", 100 * MIB)
    assert of(act.Place, story.begin("high", "h", memory="600M"))


def test_what_lies_unused_beyond_a_fair_share_is_anybodys() -> None:
    """The first session had the whole host to itself; the next one is not kept waiting."""
    story = Story(GIB, reach_bytes=GIB)
    story.session("high", Priority.HIGH)
    story.session("low", Priority.LOW)
    story.begin("high", "c1")
    story.sample("c1", 100 * MIB)
    lowered, placed = story.begin("low", "c2")
    assert isinstance(lowered, act.SetGrant) and isinstance(placed, act.Place)
    assert story.state.calls["c1"].grant_bytes >= GIB * 4 // 5 - 1


def test_for_a_settled_call_higher_ones_keep_less() -> None:
    """What grows by leaps meets the whole share of HIGH. Who mostly held this much, or waited
    at it about as long as it took to get there, does not."""
    story = Story(1200 * MIB)
    story.session("high", Priority.HIGH)
    story.session("low", Priority.LOW)
    story.begin("high", "c1")
    story.sample("c1", 300 * MIB)
    story.begin("low", "c2")
    low = story.state.calls["c2"]
    for current in (50, 100, 150, 200, 250, 300):
        story.now_ns += 100 * MS
        story.sample("c2", min(current * MIB, low.grant_bytes))
    assert low.blocked_since_ns is not None
    assert low.grant_bytes <= 240 * MIB
    for _ in range(5):
        story.now_ns += 200 * MS
        story.sample("c2", low.grant_bytes)
    assert low.grant_bytes >= 290 * MIB


def test_when_all_wait_what_is_left_goes_to_the_first_before_anybody_dies() -> None:
    story = Story(160 * MIB)
    story.session("high", Priority.HIGH)
    story.session("low", Priority.LOW)
    story.begin("low", "l")
    story.sample("l", 40 * MIB)
    story.begin("high", "h")
    high, low = story.state.calls["h"], story.state.calls["l"]
    for _ in range(20):
        story.now_ns += 20 * MS
        for call, wants in ((low, 120), (high, 115)):
            if call.runs:
                story.sample(call.name, min(call.grant_bytes, wants * MIB))
    story.run_until_quiet(0.5)
    story.sample("h", min(high.grant_bytes, 115 * MIB))
    assert high.current_bytes == 115 * MIB
    assert of(act.Kill, story.log) == []


def test_who_gets_no_more_goes_on_until_it_meets_its_line() -> None:
    """Near its line with all it needs is not waiting: nobody freezes it, nobody dies for it."""
    story = Story(155 * MIB)
    story.session("low", Priority.LOW)
    story.session("high", Priority.HIGH)
    story.begin("low", "l", memory="128M")
    story.begin("high", "h", memory="128M")
    high, low = story.state.calls["h"], story.state.calls["l"]
    story.sample("l", low.grant_bytes)
    story.sample("h", high.grant_bytes - 5 * MIB)
    story.run_until_quiet(10)
    assert high.blocked_since_ns is None and not of(act.Kill, story.log)
    story.feed(i.MemoryHigh(story.now_ns, "h", high.grant_bytes))
    assert high.blocked_since_ns is not None or high.grant_bytes > 128 * MIB


def test_the_eldest_of_equals_keeps_room_to_grow() -> None:
    story = Story(GIB, elder_room_pct=100)
    for name in ("elder", "younger"):
        story.session(name)
    story.begin("elder", "c1", memory="128M", memory_max="1G")
    story.begin("younger", "c2", memory="128M", memory_max="1G")
    elder, younger = story.state.calls["c1"], story.state.calls["c2"]
    for current in range(100, 521, 20):
        for call in (elder, younger):
            story.sample(call.name, min(current * MIB, call.grant_bytes))
    assert elder.blocked_since_ns is None
    assert younger.blocked_since_ns is not None
    assert younger.grant_bytes < elder.grant_bytes


def test_a_raise_covers_what_the_measured_growth_takes_meanwhile() -> None:
    story = Story(4 * GIB)
    story.session("first", Priority.HIGH)
    story.begin("first", "c0", memory="64M")
    story.session("a")
    story.begin("a", "c1")
    for current in (40, 120):
        story.now_ns += 20 * MS
        raised = of(act.SetGrant, story.sample("c1", current * MIB))
    # 4 GB/s: 200 MiB in 50 ms, where a plain step is 32 MiB.
    assert raised[0].grant_bytes >= (128 + 200) * MIB


def test_sums_by_session_are_what_adding_up_gives() -> None:
    story = Story(GIB)
    for name in ("a", "b"):
        story.session(name, reserve_bytes=10 * MIB)
    story.begin("a", "c1")
    story.feed(i.AgentSample(story.now_ns, "b", 50 * MIB))
    story.feed(i.SessionUpdate(story.now_ns, "a", reserve_bytes=20 * MIB))
    assert story.state.overhead_bytes == 70 * MIB
    assert set(story.state.active) == {"a"}
    story.end("c1")
    story.feed(i.SessionEnd(story.now_ns, "b"))
    assert story.state.overhead_bytes == 20 * MIB and not story.state.active


def test_reclaimable_memory_of_equals_and_lower_ones_is_asked_back_for_who_waits() -> None:
    story = full_host()
    story.feed(i.CallSample(0, "l", 200 * MIB, 150 * MIB))
    story.sample("h", 200 * MIB)
    asked = of(act.Reclaim, story.log)
    assert [(a.call, a.amount_bytes) for a in asked] == [("l", 32 * MIB)]
    assert not of(act.Reclaim, story.later(10 * MS)), "not again before it had its effect"
    story.now_ns += 100 * MS
    story.sample("l", 168 * MIB)
    assert story.state.calls["h"].grant_bytes > 200 * MIB
    assert not of(act.Kill, story.log)


def test_reclaimable_memory_of_a_higher_one_is_left_alone() -> None:
    story = full_host()
    story.feed(i.CallSample(0, "h", 190 * MIB, 150 * MIB))
    story.sample("l", 200 * MIB)
    story.later(1 * MS)
    assert not of(act.Reclaim, story.log)


def test_what_is_remembered_of_ended_calls_is_bounded() -> None:
    story = Story(GIB)
    story.session("a")
    story.session("b")
    story.begin("a", "eldest")
    for number in range(1000):
        story.begin("b", f"c{number}")
        story.end(f"c{number}")
    assert sum(map(len, story.state.kept._running)) < 200
    assert leader(story.state) is story.state.sessions["a"]
    story.end("eldest")
    assert leader(story.state) is None
