# SPDX-License-Identifier: Apache-2.0
"""The figures, order and filter of `top`, from snapshots."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from top_world import call, session, snapshot, status

from agentcgroup.cli.top_keys import KeyReader, Ui, bounded, press
from agentcgroup.cli.top_rows import (
    SORTS,
    Group,
    Row,
    Snapshot,
    as_json,
    filtered,
    groups,
    ordered,
)
from agentcgroup.units import GIB


def by_name(found: list[Group]) -> dict[str, Row]:
    return {row.name: row for group in found for row in (group.session, *group.calls)}


def names(found: list[Group]) -> list[str]:
    return [row.name for group in found for row in (group.session, *group.calls)]


def test_rates_are_between_the_snapshots() -> None:
    rows = by_name(groups(snapshot(0), snapshot(2)))
    assert rows["alice"].cpu_pct == pytest.approx(150)
    assert rows["c1"].cpu_pct == pytest.approx(100)
    assert rows["c2"].cpu_pct == pytest.approx(50)
    assert rows["c3"].cpu_pct == pytest.approx(0)
    assert rows["c3"].pressure_pct == pytest.approx(40)
    assert rows["bob"].pressure_pct == pytest.approx(50)
    assert rows["c5"].cpu_pct is None and rows["c5"].memory_bytes is None


def test_rows_carry_grant_cap_and_delays() -> None:
    rows = by_name(groups(snapshot(0), snapshot(2)))
    frozen = rows["c3"]
    assert (frozen.grant_bytes, frozen.cap_bytes, frozen.priority) == (GIB, 2 * GIB, "low")
    assert (frozen.waited_ms, frozen.throttled_ms, frozen.frozen_ms) == (3000, 800, 2000)
    assert frozen.delayed_ms == 5800 and frozen.because == "others hold the memory"
    assert rows["bob"].waited_ms == 9000 and rows["bob"].frozen_ms == 2000
    assert (rows["bob"].state, rows["alice"].state, rows["carol"].state) == (
        "3 calls", "2 calls", "idle")  # fmt: skip
    assert rows["carol"].layers == ("observe",) and rows["alice"].age_s == 1002
    assert rows["bob"].text == "team=x"


def test_a_call_that_is_new_is_rated_over_its_life() -> None:
    rows = by_name(groups(None, snapshot(0)))
    assert rows["c1"].cpu_pct == pytest.approx(100)
    assert rows["c2"].cpu_pct == pytest.approx(40)
    assert rows["alice"].cpu_pct is None


def test_a_counter_that_began_anew_has_no_rate() -> None:
    """The daemon restarted, or a session of the same name is another one."""
    rows = by_name(groups(snapshot(5), snapshot(0)))
    assert rows["alice"].cpu_pct is None and rows["c1"].cpu_pct is None
    old = Snapshot(status(1), (session("s", cpu_s=1.0, throttled_ms=0.0),), (), 1.0)
    new = session("s", cpu_s=9.0, throttled_ms=9.0, created_epoch_s=8800.0, pressure_avg10_pct=3.5)
    row = groups(old, Snapshot(status(2), (new,), (), 2.0))[0].session
    assert row.cpu_pct is None and row.pressure_pct == 3.5


def test_pressure_is_never_more_than_all_the_time() -> None:
    then = Snapshot(status(1), (session("s"),), (call("c", "s", age_s=1, throttled_ms=0.0),), 1.0)
    now = Snapshot(status(2), (session("s"),), (call("c", "s", age_s=2, throttled_ms=1010.0),), 2.0)
    assert groups(then, now)[0].calls[0].pressure_pct == 100


def test_a_call_without_its_session_is_left_out() -> None:
    """They are read one after the other: a session may be gone, or not be there yet."""
    found = groups(None, Snapshot(status(), (), (call("c", "gone"),), 1.0))
    assert found == []
    assert as_json(None, Snapshot(status(), (), (call("c", "gone"),), 1.0))["calls"][0][
        "priority"
    ] is None  # fmt: skip


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("cpu", ["alice", "c1", "c2", "bob", "c3", "c4", "c5", "carol"]),
        ("memory", ["alice", "c2", "c1", "bob", "c3", "c4", "c5", "carol"]),
        ("pressure", ["bob", "c3", "c4", "c5", "alice", "c1", "c2", "carol"]),
        ("delayed", ["bob", "c5", "c3", "c4", "alice", "c1", "c2", "carol"]),
        ("name", ["alice", "c1", "c2", "bob", "c3", "c4", "c5", "carol"]),
    ],
)
def test_order(sort: str, expected: list[str]) -> None:
    found = groups(snapshot(0), snapshot(2))
    assert names(ordered(found, sort)) == expected
    assert names(ordered(ordered(found, "name"), sort)) == expected
    back = ordered(found, sort, reverse=True)
    assert [g.session.name for g in back] == [g.session.name for g in ordered(found, sort)][::-1]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ["alice", "c1", "c2", "bob", "c3", "c4", "c5", "carol"]),
        ("ALI", ["alice", "c1", "c2"]),
        ("pytest", ["alice", "c1"]),
        (" c3 ", ["bob", "c3"]),
        ("team=x", ["bob", "c3", "c4", "c5"]),
        ("frozen", ["bob", "c3"]),
        ("[31m", ["bob", "c4"]),
        (".*", []),
    ],
)
def test_filter(wanted: str, expected: list[str]) -> None:
    assert names(filtered(groups(None, snapshot(0)), wanted)) == expected


def test_json_has_the_records_with_rates() -> None:
    told = json.loads(json.dumps(as_json(snapshot(0), snapshot(2))))
    assert set(told) == {"host", "sessions", "calls"}
    assert told["host"]["held_bytes"] == 6 * GIB and told["host"]["mode"] == "enforce"
    calls = {c["call"]: c for c in told["calls"]}
    assert calls["c1"]["cpu_pct"] == 100 and calls["c3"]["pressure_pct"] == 40
    assert calls["c3"]["priority"] == "low" and "outcome" not in calls["c3"]
    assert calls["c5"]["cpu_pct"] is None and calls["c5"]["waited_ms"] == 6000
    assert {s["name"]: s["cpu_pct"] for s in told["sessions"]}["alice"] == 150


def test_keys_are_read_also_in_pieces() -> None:
    reader = KeyReader()
    assert reader.keys(b"cq/\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\r\x7f\x1b") == [
        "c", "q", "/", "up", "down", "page up", "page down", "home", "enter", "backspace",
        "escape",
    ]  # fmt: skip
    assert reader.keys(b"\xe6\xbc") == [] and reader.keys(b"\xa2\xff") == ["漢", "\ufffd"]
    assert reader.keys(b"\x1b[99;5~") == []


def test_sort_keys_and_reverse() -> None:
    ui = Ui()
    for key, sort in {"c": "cpu", "w": "delayed", "n": "name", "p": "pressure"}.items():
        ui = press(ui, key)
        assert ui.sort == sort and sort in SORTS
    assert press(ui, "r").reverse and not press(press(ui, "r"), "r").reverse
    assert press(ui, "q").done and not press(ui, "Q").done
    assert press(ui, "z") == ui


def test_a_filter_is_typed_kept_and_dropped() -> None:
    ui = Ui()
    for key in ["/", "q", "c", "x", "backspace", "\x07", "enter"]:
        ui = press(ui, key)
    assert (ui.filter, ui.editing, ui.done, ui.sort) == ("qc", False, False, "memory")
    assert press(ui, "escape").filter == ""
    typed = press(press(ui, "/"), "漢")
    assert (typed.filter, typed.editing) == ("漢", True)
    assert press(typed, "escape") == replace(typed, filter="", editing=False)
    for _ in range(200):
        typed = press(typed, "a")
    assert len(typed.filter) == 64 and press(typed, "erase").filter == ""


def test_scrolling_is_bounded_by_what_there_is() -> None:
    ui = bounded(Ui(), 30, 10)
    assert ui.page == 10 and press(ui, "up").scroll == 0
    assert bounded(press(ui, "end"), 30, 10).scroll == 20
    assert press(bounded(press(ui, "end"), 30, 10), "k").scroll == 19
    assert press(ui, "page down").scroll == 10 and press(press(ui, "j"), "page up").scroll == 0
    assert bounded(press(ui, "end"), 3, 10).scroll == 0
    assert bounded(ui, 30, -3).page == 1
