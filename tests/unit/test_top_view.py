# SPDX-License-Identifier: Apache-2.0
"""How `top` looks at several widths, and what hostile names can do to it: nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from top_world import HOSTILE, call, session, snapshot, status

from agentcgroup.cli.top_keys import Ui, bounded
from agentcgroup.cli.top_rows import Snapshot, groups, ordered
from agentcgroup.cli.top_view import CHROME_ROWS, duration, flat, frame, header

WIDTHS = (30, 80, 120, 200)


def drawn(now: Snapshot, width: int, ui: Ui | None = None, **options: Any) -> list[str]:
    console = recording(width)
    total = ordered(groups(None, now), "name")
    ui = ui or Ui(sort="name")
    console.print(frame(now.status, total, total, replace(ui, page=100), width, **options))
    return console.export_text(styles=False).splitlines()


def recording(width: int) -> Console:
    return Console(
        width=width, record=True, file=io.StringIO(), force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_is_one_aligned_line(width: int) -> None:
    lines = drawn(snapshot(0), width)
    assert len(lines) == CHROME_ROWS + 8
    assert all(cell_len(line) <= width for line in lines)
    rows = lines[4:13]
    assert [row.split()[0] for row in rows[1:]] == [
        "alice", "c1", "c2", "bob", "c3", "c4", "c5", "carol",
    ]  # fmt: skip
    if width >= 80:
        assert rows[0].startswith("SESSION/CALL")
        assert "900 MiB" in rows[2] and "1 GiB" in rows[2] and "100.0" in rows[2]
        end = rows[0].index("MEMORY") + len("MEMORY")
        assert all(row[end - 1] != " " and row[end] == " " for row in rows[2:4])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_and_never_interpreted(width: int, text: str) -> None:
    calls = (
        call("c1", "s", label=text, memory_current_bytes=1),
        call("c2", "s", "queued", command=text, because=text),
    )
    one = session("s", labels={"k": text[:200]})
    now = Snapshot(status(), (one,), calls, 1.0)
    console = recording(width)
    total = groups(None, now)
    ui = replace(Ui(filter=text, editing=True), page=100)
    console.print(frame(now.status, total, total, ui, width, trouble=text))
    console.print(header({**now.status, "mode": text}, total, width))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    lines = console.export_text(styles=False).splitlines()
    assert len(lines) == CHROME_ROWS + 3 + 3
    assert all(cell_len(line) <= width for line in lines)
    assert all(c.isprintable() for line in lines for c in line)
    assert "\x1b]" not in written and "\x07" not in written and "\x9b" not in written
    assert "\x1b[31m\x1b" not in written
    if text.startswith("[red]") and width == 200:
        assert "[red]markup[/red]" in written


def test_foreign_text_is_cut() -> None:
    lines = drawn(Snapshot(status(), (session("s"),), (call("c", "s", label="x" * 300),), 1.0), 300)
    assert "x" * 63 + "…" in lines[6] and "x" * 64 not in lines[6]


def test_delays_are_told_apart_where_there_is_room() -> None:
    assert "DELAYED" in drawn(snapshot(2), 80)[4] and "FROZEN" not in drawn(snapshot(2), 80)[4]
    wide = drawn(snapshot(2), 200)
    for title in ("WAITED", "THROTTLED", "FROZEN", "LAYERS", "PRIO", "GRANT", "CAP", "AGE"):
        assert title in wide[4]
    frozen = next(line for line in wide if line.startswith("  c3"))
    for told in ("frozen", "3.0 s", "800 ms", "2.0 s", "train.py", "(others hold the memory)"):
        assert told in frozen
    assert "files+events" in next(line for line in wide if line.startswith("  c1"))
    assert "observe" in next(line for line in wide if line.startswith("carol"))


def test_header_says_how_the_host_is() -> None:
    first, second, third = drawn(snapshot(0), 120)[:3]
    assert "enforce" in first and "memory files+events" in first and "up 1m 40s" in first
    assert second.startswith("host 6 GiB of 8 GiB held, 2 GiB free") and second.endswith("75 %")
    assert third == "3 sessions, 5 calls: 3 running, 1 frozen, 1 queued"
    assert drawn(replace(snapshot(0), status={}), 120)[1] == "host budget is not known"


def test_trouble_takes_the_place_of_the_counts() -> None:
    assert drawn(snapshot(0), 80, trouble="no figures for 3 s")[2] == "no figures for 3 s"


def test_empty_state_says_what_to_do() -> None:
    lines = drawn(Snapshot(status(), (), (), 1.0), 80)
    assert "agentcgroup session run" in lines[4] and "agentcgroup attach pid" in lines[5]
    console = recording(80)
    total = groups(None, snapshot(0))
    console.print(frame(status(), [], total, Ui(filter="zz"), 80))
    assert "Nothing matches 'zz'. Esc" in console.export_text()


def test_scrolled_page_says_where_it_is() -> None:
    total = groups(None, snapshot(0))
    ui = bounded(Ui(scroll=99), len(flat(total)), 3)
    console = recording(80)
    console.print(frame(status(), total, total, ui, 80))
    lines = console.export_text().splitlines()
    assert lines[-1].startswith("6-8 of 8") and len(lines) == CHROME_ROWS + 3


@pytest.mark.parametrize(
    ("value_ms", "told"),
    [
        (None, "-"), (0.0, "-"), (0.6, "1 ms"), (999.4, "999 ms"), (1000, "1.0 s"),
        (99_949, "99.9 s"), (99_960, "1m 39s"), (3_599_999, "59m 59s"), (3_600_000, "1h 00m"),
        (48 * 3_600_000, "2d 00h"), (400 * 86_400_000, "400d 00h"),
    ],
)  # fmt: skip
def test_durations(value_ms: float | None, told: str) -> None:
    assert duration(value_ms) == told
