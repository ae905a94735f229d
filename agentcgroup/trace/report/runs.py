# SPDX-License-Identifier: Apache-2.0
"""Runs of a replay, a comparison or a simulation (JSON, schema 1) as sections of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from .page import figure, legend, section, table
from .svg import Axis, Chart, bytes_label

__all__ = ["run_sections"]

_WIDTH = 1040
_MIB = float(1 << 20)
Run = Mapping[str, Any]


def run_sections(runs: Sequence[Run], ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    if not runs:
        return []
    return [_comparison(runs, ratios), _timelines(runs), _latencies(runs), _waits(runs)]


def _policies(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(str(run["policy"]) for run in runs))


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def _shown(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}"


def _comparison(runs: Sequence[Run], ratios: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for policy in _policies(runs):
        mine = [run for run in runs if run["policy"] == policy]
        sessions = [s for run in mine for s in run["sessions"]]
        alive = sum(bool(s["survived"]) for s in sessions)
        kills = sum((s["oom_kills"] or 0) + s.get("policy_kills", 0) for s in sessions)
        highs = [s for s in sessions if s["priority"] == _highest(sessions)]
        lost = alive < len(sessions)
        rows.append(
            (
                policy, len(mine), (f"{alive}/{len(sessions)}", "bad" if lost else "good"),
                f"{kills / len(mine):.3g}", _shown(_mean([r["makespan_s"] for r in mine]), "s"),
                _shown(_mean([s["alloc_latency_ms"]["p95"] for s in highs]), "ms"),
                _shown(_mean([s["waited_ms"] for s in sessions]), "ms"),
                _shown(_mean([s["throttled_ms"] for s in sessions]), "ms"),
                _shown(_mean([s["frozen_ms"] for s in sessions]), "ms"),
            )
        )  # fmt: skip
    columns = (
        "policy", "runs", "survived", "kills a run", "makespan", "p95 of highest priority",
        "waited", "throttled", "frozen",
    )  # fmt: skip
    compared = [
        (
            row["metric"], row["policy"], row["baseline"], f"{row['ratio']:.3f}",
            "-" if not row.get("ci95") else f"{row['ci95'][0]:.3f} to {row['ci95'][1]:.3f}",
            row["pairs"],
        )
        for row in ratios
    ]  # fmt: skip
    names = ("figure", "policy", "over", "ratio", "95 % interval", "pairs")
    more = f"<h3>Ratios</h3>{table(names, compared)}" if compared else ""
    total = runs[0].get("total_memory_bytes")
    about = "Means over runs and sessions."
    if isinstance(total, int):
        about = f"{bytes_label(total)} for all sessions. {about}"
    return section("Policies compared", about, table(columns, rows), more)


def _highest(sessions: Sequence[Mapping[str, Any]]) -> str:
    order = ("high", "normal", "low")
    return min((str(s["priority"]) for s in sessions), key=order.index, default="normal")


def _timelines(runs: Sequence[Run]) -> str:
    first = {policy: next(r for r in runs if r["policy"] == policy) for policy in _policies(runs)}
    end_s = max([float(run["makespan_s"]) for run in first.values()] + [0.001])
    total = max([float(run.get("total_memory_bytes") or 0) for run in first.values()])
    drawn = []
    for policy, run in first.items():
        if any(session.get("timeline") for session in run["sessions"]):
            drawn.append(figure(policy, _timeline(run, end_s, total), _names(run)))
    if not drawn:
        return ""
    return section(
        "Memory over time",
        "First run of each policy; sessions on top of each other, without what each holds besides"
        " its trace (base memory). Dashed: memory for all. Crosses: kills.",
        *drawn,
    )


def _names(run: Run) -> str:
    return legend([f"{s['name']} ({s['priority']})" for s in run["sessions"]], ("✕", "kill"))


def _timeline(run: Run, end_s: float, total: float) -> str:
    sessions = run["sessions"]
    alone = run["policy"] == "alone"  # one after another: lines over each other
    grid = sorted({float(at) for s in sessions for at, _ in s.get("timeline", [])} | {0.0, end_s})
    heights = [_heights(s, grid) for s in sessions]
    stacked = [sum(column) for column in zip(*heights, strict=True)]
    high = max([*stacked, total, 1.0]) * 1.05
    chart = Chart(
        _WIDTH, 230, Axis(0, end_s, "seconds since the common start"),
        Axis(0, high, "memory (MiB)", _MIB), f"Memory over time under {run['policy']}",
    )  # fmt: skip
    lower = [0.0] * len(grid)
    kills: list[tuple[float, float, str]] = []
    for number, (session, own) in enumerate(zip(sessions, heights, strict=True)):
        if alone:
            chart.line(list(zip(grid, own, strict=True)), f"c{number % 8}")
            continue
        upper = [a + b for a, b in zip(lower, own, strict=True)]
        chart.band(_steps(grid, lower), _steps(grid, upper), f"c{number % 8}", session["name"])
        for at_s in session.get("kill_times_s", []):
            index = max((i for i, at in enumerate(grid) if at <= at_s), default=0)
            kills.append((at_s, upper[index], f"{session['name']} killed at {at_s:.2f} s"))
        lower = upper
    for at_s, height, words in kills:
        chart.cross(at_s, height, words)
    if total:
        chart.line([(0, total), (end_s, total)], "budget")
    return chart.svg()


def _heights(session: Mapping[str, Any], grid: Sequence[float]) -> list[float]:
    """What the session holds at each point of the grid."""
    points = session.get("timeline", [])
    end_s = session.get("completion_s")
    found, index, held = [], 0, 0.0
    for at in grid:
        while index < len(points) and points[index][0] <= at:
            held, index = float(points[index][1]), index + 1
        found.append(0.0 if end_s is not None and at > end_s else held)
    return found


def _steps(grid: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for at, value in zip(grid, values, strict=True):
        if found:
            found.append((at, found[-1][1]))
        found.append((at, value))
    return found


def _latencies(runs: Sequence[Run]) -> str:
    """p50, p95 and the maximum of each session, a row a policy and session."""
    rows = [
        (_row_name(run, s), s["alloc_latency_ms"], number)
        for run in {str(r["policy"]): r for r in reversed(runs)}.values()
        for number, s in enumerate(run["sessions"])
        if s["alloc_latency_ms"].get("count")
    ]
    rows.reverse()
    if not rows:
        return ""
    marks = ("p50", "p95", "p99", "max")
    values = [float(latency[m]) for _, latency, _ in rows for m in marks if latency[m]]
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = max(1.3 * max(values), 10 * low)
    chart = Chart(
        _WIDTH, 60 + 22 * len(rows), Axis(low, high, "ms (log scale)", log=True),
        Axis(0, len(rows), ""), "Allocation latency", [name for name, _, _ in rows],
    )  # fmt: skip
    for index, (name, latency, number) in enumerate(rows):
        known = [(m, float(latency[m])) for m in marks if latency[m]]
        chart.line([(v, index + 0.5) for _, v in known], f"c{number % 8}")
        for shape, (mark, value) in enumerate(known):
            chart.dot(value, index + 0.5, f"c{number % 8}", shape, f"{name} {mark}: {value:.3g} ms")
    return section(
        "Allocation latency",
        "How long a session's growth to its next level took. ● p50, ■ p95, ▲ p99, ◆ largest.",
        chart.svg(),
    )


def _row_name(run: Run, session: Mapping[str, Any]) -> str:
    """The end of a long name tells twins apart."""
    name = str(session["name"])
    return f"{run['policy']} · {name if len(name) <= 18 else '…' + name[-17:]}"


def _waits(runs: Sequence[Run]) -> str:
    """Seconds that sessions stood still, by why."""
    kinds = (("waited_ms", "waited"), ("throttled_ms", "throttled"), ("frozen_ms", "frozen"))
    rows = [
        (_row_name(run, s), [float(s[key] or 0) / 1000 for key, _ in kinds])
        for run in {str(r["policy"]): r for r in reversed(runs)}.values()
        for s in run["sessions"]
    ]
    rows = [row for row in rows if sum(row[1]) > 0]
    rows.reverse()
    if not rows:
        return ""
    chart = Chart(
        _WIDTH, 60 + 22 * len(rows), Axis(0, max(sum(v) for _, v in rows) * 1.05, "seconds"),
        Axis(0, len(rows), ""), "Time that sessions stood still", [name for name, _ in rows],
    )  # fmt: skip
    for index, (name, values) in enumerate(rows):
        at = 0.0
        for number, ((_, kind), value) in enumerate(zip(kinds, values, strict=True)):
            if value > 0:
                top = chart.py(index + 0.85)
                high = chart.py(index + 0.15) - top
                chart.rect(
                    at, at + value, top, high, f"c{number} bar", f"{name}: {kind} {value:.3g} s"
                )
            at += value
    return section(
        "Time stood still",
        "First run of each policy; sessions that never stood still are left out.",
        chart.svg(),
        legend([kind for _, kind in kinds]),
    )
