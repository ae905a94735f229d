# SPDX-License-Identifier: Apache-2.0
"""How `top` looks: rows and header as rich renderables for a width. Pure.

Names, labels and commands come from untrusted code: plain text, one line, cut to 64
characters. Colour only says that something is near its limit, held back, or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..units import format_bytes
from .output import plain
from .top_keys import SORT_KEYS, Ui
from .top_rows import Group, Row

__all__ = ["CHROME_ROWS", "EMPTY", "duration", "flat", "frame", "header", "table"]

LONGEST_TEXT = 64
# Lines of a frame that are no rows: header (3), blank, column titles, blank, keys.
CHROME_ROWS = 7
_BAR_CELLS = 8
_HOST_BAR_CELLS = 24
_WARN_SHARE, _FULL_SHARE = 0.85, 0.97
_WARN_PRESSURE_PCT, _BAD_PRESSURE_PCT = 5.0, 25.0
_STATE_STYLE = {"frozen": "cyan", "queued": "yellow"}
EMPTY = (
    "No sessions. Start an agent in one:  agentcgroup session run --memory 4G -- AGENT…",
    "or make one of a running agent:      agentcgroup attach pid PID",
)


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    width: int
    cell: Callable[[Row], Text]
    sort: str = ""
    right: bool = True


def flat(groups: Sequence[Group]) -> list[Row]:
    return [row for group in groups for row in (group.session, *group.calls)]


def frame(
    status: Mapping[str, Any],
    groups: Sequence[Group],
    total: Sequence[Group],
    ui: Ui,
    width: int,
    *,
    trouble: str = "",
) -> RenderableType:
    """The live screen: header, one page of rows, keys. `total` is what was not filtered."""
    rows = flat(groups)
    shown = rows[ui.scroll : ui.scroll + ui.page]
    parts: list[RenderableType] = [header(status, total, width, trouble=trouble), Text()]
    if not total:
        parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in EMPTY]
    elif not rows:
        parts.append(Text(f"Nothing matches '{plain(ui.filter)}'. Esc shows everything again."))
    else:
        parts.append(table(shown, width, sort=ui.sort, reverse=ui.reverse, stale=bool(trouble)))
    parts += [Text(), _keys(ui, len(rows), len(shown), width)]
    return Lines(*parts)


def header(
    status: Mapping[str, Any], groups: Sequence[Group], width: int, *, trouble: str = ""
) -> Text:
    """Three lines: daemon, host memory, what goes on (or why nothing new comes)."""
    layers = status.get("layers") or {}
    parts = ["agentcgroup", str(status.get("mode") or "")]
    parts.append(f"up {duration(1000.0 * float(status.get('uptime_s') or 0))}")
    parts += [f"{name} {'+'.join(map(str, used))}" for name, used in layers.items() if used]
    first = Text(plain(" · ".join(part for part in parts if part)))
    first.stylize("bold", 0, len("agentcgroup"))
    third = Text(plain(trouble), style="red") if trouble else Text(_counts(groups))
    lines = [first, _host_line(status.get("host") or {}, width), third]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def table(
    rows: Sequence[Row], width: int, *, sort: str = "", reverse: bool = False, stale: bool = False
) -> Table:
    """Rows in the columns that `width` has room for; the last one takes what is left."""
    longest = max((cell_len(_name(row).plain) for row in rows), default=0)
    names, gap, name_width = _layout(width, max(longest, len("SESSION/CALL") + 1))
    columns = _columns(name_width)
    shown = Table(
        box=None, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False, width=width,
        header_style="", style="dim" if stale else "",
    )  # fmt: skip
    for name in names:
        column = columns[name]
        title = Text(column.title, style="bold" if column.sort == sort else "dim")
        if column.sort == sort:
            title.append("▲" if reverse != (sort == "name") else "▼")
        shown.add_column(
            title, justify="right" if column.right else "left", no_wrap=True,
            overflow="ellipsis", width=column.width or None, ratio=None if column.width else 1,
        )  # fmt: skip
    for row in rows:
        shown.add_row(*(columns[name].cell(row) for name in names))
    return shown


def duration(value_ms: float | None) -> str:
    """A time as people read it, at most seven characters; a dash for none."""
    if value_ms is None or value_ms < 0.5:
        return "-"
    if value_ms < 1000:
        return f"{value_ms:.0f} ms"
    seconds = value_ms / 1000
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m {int(seconds % 60):02}s"
    hours = minutes // 60
    return f"{hours}h {minutes % 60:02}m" if hours < 48 else f"{hours // 24}d {hours % 24:02}h"


_FULL = ("name", "state", "cpu", "memory", "use", "grant", "cap", "pressure", "waited",
         "throttled", "frozen", "text")  # fmt: skip
_WIDE = ("name", "priority", *_FULL[1:-1], "age", "layers", "text")
_MIDDLE = ("name", "state", "cpu", "memory", "use", "grant", "cap", "pressure", "delayed", "text")
_NARROW = ("name", "state", "cpu", "memory", "grant", "pressure", "delayed", "text")
_TINY = ("name", "state", "cpu", "memory")
# Columns, blanks between them, least width of the last: the first that fit are taken.
_LAYOUTS = ((_WIDE, 2, 16), (_WIDE, 1, 16), (_FULL, 1, 20), (_MIDDLE, 1, 16), (_NARROW, 1, 11))
_LEAST_NAME, _MOST_NAME = 13, 32


def _columns(name_width: int) -> dict[str, Column]:
    return {
        "name": Column("SESSION/CALL", name_width, _name, "name", right=False),
        "priority": Column("PRIO", 6, lambda row: _session_only(row, row.priority), right=False),
        "state": Column("STATE", 8, _state, right=False),
        "cpu": Column("CPU %", 6, lambda row: _percent(row.cpu_pct), "cpu"),
        "memory": Column("MEMORY", 8, _memory, "memory"),
        "use": Column("USE", 8, _use, right=False),
        "grant": Column("GRANT", 8, lambda row: _bytes(row.grant_bytes)),
        "cap": Column("CAP", 8, lambda row: _bytes(row.cap_bytes)),
        "pressure": Column("PRESS %", 8, _pressure, "pressure"),
        "delayed": Column("DELAYED", 8, lambda row: Text(duration(row.delayed_ms)), "delayed"),
        "waited": Column("WAITED", 7, lambda row: Text(duration(row.waited_ms)), "delayed"),
        "throttled": Column("THROTTLED", 9, lambda row: Text(duration(row.throttled_ms))),
        "frozen": Column("FROZEN", 7, lambda row: Text(duration(row.frozen_ms))),
        "age": Column("AGE", 7, lambda row: Text(duration(row.age_s * 1000))),
        "layers": Column("LAYERS", 12, lambda row: Text(plain("+".join(row.layers))), right=False),
        "text": Column("COMMAND", 0, _text, right=False),
    }


def _layout(width: int, longest_name: int) -> tuple[tuple[str, ...], int, int]:
    """Column names, blanks between them, width of the names."""
    for names, gap, least_text in _LAYOUTS:
        room = width - _fixed_width(names, gap) - least_text
        if room >= _LEAST_NAME:
            return names, gap, min(room, max(_LEAST_NAME, longest_name), _MOST_NAME, width // 6)
    return _TINY, 1, max(4, width - _fixed_width(_TINY, 1))


def _fixed_width(names: Sequence[str], gap: int) -> int:
    columns = _columns(0)
    return sum(columns[name].width for name in names) + gap * (len(names) - 1)


def _name(row: Row) -> Text:
    return Text(f"  {plain(row.call)}") if row.call else Text(plain(row.session), style="bold")


def _state(row: Row) -> Text:
    return Text(plain(row.state), style=_STATE_STYLE.get(row.state, "" if row.call else "dim"))


def _session_only(row: Row, text: str) -> Text:
    return Text("" if row.call else plain(text))


def _percent(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.1f}" if value < 9999 else f"{value:.0f}")


def _bytes(value: int | None) -> Text:
    return Text(format_bytes(value) if value else "-")


def _memory(row: Row) -> Text:
    text = _bytes(row.memory_bytes)
    text.stylize(_share_style(row.memory_bytes, row.cap_bytes))
    return text


def _pressure(row: Row) -> Text:
    text, value = _percent(row.pressure_pct), row.pressure_pct or 0.0
    text.stylize("red" if value >= _BAD_PRESSURE_PCT else
                 "yellow" if value >= _WARN_PRESSURE_PCT else "")  # fmt: skip
    return text


def _use(row: Row) -> Text:
    """A call's memory against its grant, a session's against its budget."""
    whole = row.grant_bytes if row.call else row.cap_bytes
    if not whole or row.memory_bytes is None:
        return Text("")
    share = row.memory_bytes / whole
    return _bar(share, _BAR_CELLS, "yellow" if share >= _FULL_SHARE else "")


def _bar(share: float, cells: int, style: str) -> Text:
    full = max(0, min(cells, round(share * cells)))
    bar = Text("━" * full, style=style)
    return bar.append("─" * (cells - full), style="dim")


def _share_style(used: int | None, whole: int | None) -> str:
    if not whole or used is None or used < _WARN_SHARE * whole:
        return ""
    return "red" if used >= _FULL_SHARE * whole else "yellow"


def _text(row: Row) -> Text:
    text = plain(row.text)
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    shown = Text(text, style="" if row.call else "dim")
    if row.because:
        shown.append(f"{'  ' if text else ''}({plain(row.because)})", style="dim")
    return shown


def _host_line(host: Mapping[str, Any], width: int) -> Text:
    budget, free = host.get("budget_bytes"), host.get("free_bytes")
    if not budget or free is None:
        return Text("host budget is not known")
    held = budget - free
    line = Text(f"host {format_bytes(held)} of {format_bytes(budget)} held, ")
    line.append(f"{format_bytes(max(0, free))} free  ")
    line.append(_bar(held / budget, _HOST_BAR_CELLS, _share_style(held, budget)))
    return line.append(f" {100 * held / budget:.0f} %")


def _counts(groups: Sequence[Group]) -> str:
    rows = [row for group in groups for row in group.calls]
    states = {state: sum(row.state == state for row in rows) for state in
              ("running", "frozen", "queued")}  # fmt: skip
    told = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    return (
        f"{_number(len(groups), 'session')}, {_number(len(rows), 'call')}"
        f"{': ' if told else ''}{told}"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _keys(ui: Ui, rows: int, shown: int, width: int) -> Text:
    if ui.editing:
        line = Text(f"filter: {plain(ui.filter)}▏  ")
        line.append("Enter keeps it, Esc drops it", style="dim")
    else:
        words = [f"{key} {name}" for key, name in SORT_KEYS.items()]
        line = Text("  ".join(words) + "  r reverse   / filter   q quit", style="dim")
        if ui.filter:
            line = Text(f"filter '{plain(ui.filter)}'   ") + line
        if shown < rows:
            line = Text(f"{ui.scroll + 1}-{ui.scroll + shown} of {rows} ↑↓   ") + line
    line.truncate(width, overflow="ellipsis")
    return line
