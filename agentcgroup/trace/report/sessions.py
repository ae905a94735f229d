# SPDX-License-Identifier: Apache-2.0
"""A trace's sessions over time: memory, limits, tool calls, waits and kills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import Record
from .page import figure, legend, section
from .svg import Axis, Chart

__all__ = ["decision_rows", "session_section"]

_WIDTH = 1040
_MIB = float(1 << 20)
_MOST_SESSIONS = 24
_MOST_POINTS = 1500
_LANE_PX = 14
_MOST_LANES = 10
_ENDINGS = ("kill", "refuse", "terminate")


@dataclass(slots=True)
class _Call:
    begin_s: float
    end_s: float | None = None
    tool: str = "call"
    command: str = ""
    reason: str = ""
    waits: list[tuple[float, float]] = field(default_factory=list)
    waiting_since: float | None = None


@dataclass(slots=True)
class _Session:
    name: str
    memory: list[tuple[float, float]] = field(default_factory=list)
    calls: dict[str, _Call] = field(default_factory=dict)
    grants: dict[str, float] = field(default_factory=dict)
    limits: list[tuple[float, float]] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    last_s: float = 0.0


def session_section(title: str, records: Sequence[Record]) -> str:
    """One picture a session, up to some dozens."""
    sessions = _gather(records)
    shown = [s for s in sessions.values() if s.memory or s.calls][:_MOST_SESSIONS]
    if not shown:
        return ""
    tools = list(dict.fromkeys(c.tool for s in shown for c in s.calls.values()))
    drawn = [figure(s.name, _draw(s, tools)) for s in shown]
    left_out = len(sessions) - len(shown)
    note = (
        "Line: memory of the session. Dotted: sum of its calls' limits (memory.high), where known."
        " Bars: tool calls; grey over a bar: the call waited or was frozen. Crosses: kills."
    )
    if left_out > 0:
        note += f" {left_out} more sessions are left out."
    marks = (("✕", "kill"), ("▒", "waited or frozen"))
    return section(f"Sessions of {title}", note, legend(tools[:8], *marks), *drawn)


def _gather(records: Sequence[Record]) -> dict[str, _Session]:
    found: dict[str, _Session] = {}
    origin = min((int(r["t_ns"]) for r in records), default=0)
    for record in sorted(records, key=lambda r: int(r["t_ns"])):
        name = record.get("session")
        if name is None:
            continue
        session = found.setdefault(name, _Session(name))
        at_s = (record["t_ns"] - origin) / 1e9
        session.last_s = max(session.last_s, at_s)
        _note(session, record, at_s)
    return found


def _note(session: _Session, record: Record, at_s: float) -> None:
    kind, call = record["kind"], record.get("call")
    if kind == "sample" and call is None and "memory_current_bytes" in record:
        session.memory.append((at_s, float(record["memory_current_bytes"])))
    elif kind == "call_begin" and call is not None:
        session.calls[call] = _Call(
            at_s, tool=str(record.get("tool", "call")), command=str(record.get("command", ""))
        )
    elif kind == "call_end" and call in session.calls:
        ended = session.calls[call]
        ended.end_s, ended.reason = at_s, str(record.get("reason", ""))
        _stop_waiting(ended, at_s)
        _limit(session, call, None, at_s)
        if "killed" in ended.reason:
            session.kills.append((at_s, f"{call}: {ended.reason}"))
    elif kind == "decision" and call is not None:
        _decided(session, call, record, at_s)


def _decided(session: _Session, call: str, record: Record, at_s: float) -> None:
    action = record.get("action")
    running = session.calls.get(call)
    if action in ("wait", "freeze") and running is not None and running.waiting_since is None:
        running.waiting_since = at_s
    elif action in ("place", "thaw") and running is not None:
        _stop_waiting(running, at_s)
    elif action == "kill":
        session.kills.append((at_s, f"{call}: {record.get('why', record.get('code', ''))}"))
    limits = record.get("limits")
    grant = record.get("grant_bytes")
    if grant is None and isinstance(limits, dict):
        grant = limits.get("memory_high_bytes")
    if isinstance(grant, int | float):
        _limit(session, call, float(grant), at_s)


def _stop_waiting(call: _Call, at_s: float) -> None:
    if call.waiting_since is not None:
        call.waits.append((call.waiting_since, at_s))
        call.waiting_since = None


def _limit(session: _Session, call: str, grant: float | None, at_s: float) -> None:
    if grant is None:
        if session.grants.pop(call, None) is None:
            return
    else:
        session.grants[call] = grant
    session.limits.append((at_s, sum(session.grants.values())))


def _draw(session: _Session, tools: Sequence[str]) -> str:
    lanes = _lanes(session)
    strip = _LANE_PX * max(1, len(lanes)) + 8
    height = 190 + strip
    end_s = max(session.last_s, 1e-3)
    memory, limits = _thin(session.memory), _thin(session.limits)
    high = max([value for _, value in (*memory, *limits)], default=1.0) * 1.05 or 1.0
    # The lanes lie below zero, in what would be negative memory.
    below = high * strip / (height - 56 - strip)
    chart = Chart(
        _WIDTH, height, Axis(0, end_s, "seconds"), Axis(-below, high, "memory (MiB)", _MIB),
        f"Session {session.name}",
    )  # fmt: skip
    chart.steps(limits, "limit")
    chart.line(memory, "c0")
    zero = chart.py(0) + 6
    for number, lane in enumerate(lanes):
        top = zero + number * _LANE_PX
        for name, call in lane:
            _draw_call(chart, name, call, top, tools, end_s)
    for at_s, why in session.kills:
        held = max((value for at, value in memory if at <= at_s), default=high / 2)
        chart.cross(at_s, held if held <= high else high, f"{at_s:.2f} s {why}")
    return chart.svg()


def _draw_call(
    chart: Chart, name: str, call: _Call, top: float, tools: Sequence[str], end_s: float
) -> None:
    until = end_s if call.end_s is None else call.end_s
    colour = tools.index(call.tool) % 8
    words = (
        f"{name} {call.tool} {call.command[:200]} {call.begin_s:.2f} to {until:.2f} s {call.reason}"
    )
    chart.rect(call.begin_s, until, top, _LANE_PX - 3, f"c{colour} bar", words)
    for begin, stop in call.waits:
        chart.rect(
            begin, stop, top, _LANE_PX - 3, "wait", f"{name} stood still {stop - begin:.2f} s"
        )


def _lanes(session: _Session) -> list[list[tuple[str, _Call]]]:
    """Calls that overlap lie in different lanes."""
    lanes: list[list[tuple[str, _Call]]] = []
    for name, call in session.calls.items():
        for lane in lanes:
            last = lane[-1][1]
            if last.end_s is not None and last.end_s <= call.begin_s:
                lane.append((name, call))
                break
        else:
            if len(lanes) < _MOST_LANES:
                lanes.append([(name, call)])
    return lanes


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """As many as can be seen; of those that are put together the highest counts."""
    size = max(1, -(-len(points) // _MOST_POINTS))
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[0][0], max(value for _, value in group)) for group in groups]


def decision_rows(records: Sequence[Record], limit: int) -> list[tuple[Any, ...]]:
    """(seconds, session, call, action, reason, text) of what was decided, grants left out."""
    origin = min((int(r["t_ns"]) for r in records), default=0)
    rows = [
        (
            f"{(r['t_ns'] - origin) / 1e9:.3f}", r.get("session", ""), r.get("call", ""),
            r.get("action", ""), r.get("code", ""), r.get("why", ""),
        )
        for r in records
        if r["kind"] == "decision" and r.get("action") not in ("setgrant", "place", "setlimits")
    ]  # fmt: skip
    return rows[:limit]
