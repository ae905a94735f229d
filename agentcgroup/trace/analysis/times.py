# SPDX-License-Identifier: Apache-2.0
"""Where the time goes: container, tools, model; tools and Bash commands by kind.

REFERENCE of definitions: docs/analysis.md. Percentages are of 100.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .runs import Call, Run, spread

__all__ = [
    "bash_category", "bash_category_times", "burst_category", "latency_breakdown", "run_to_run",
    "tool_ratio", "tool_stats", "tool_time_s", "tool_timeline", "union_s",
]  # fmt: skip

_TEST = re.compile(r"\b(?:pytest|python\s+-m\s+pytest|tox|nose|unittest)\b")
_GIT = re.compile(r"\bgit\s+(?:diff|log|status|show|add|commit|checkout|stash|branch|reset)\b")
_PACKAGE = re.compile(r"\b(?:pip\s+install|conda\s+install|apt|yum)\b")
_FILES = re.compile(r"\b(?:ls|find|tree|wc|du|df)\b")
_SNIPPET = re.compile(r"\bpython3?\s+-c\b")
_PYTHON = re.compile(r"\bpython3?\b")
_TEXT = re.compile(r"\b(?:cat|head|tail|grep|sed|awk)\b")
_SHELL = re.compile(r"\b(?:cd|source|export|chmod|mkdir)\b")

# First match of the lower-cased command. The paper has two orders: one for times, one for bursts.
_BY_TIME = (
    (_TEST, "Test Execution"), (_GIT, "Git Operations"), (_PACKAGE, "Package Install"),
    (_FILES, "File Exploration"), (_SNIPPET, "Python Snippet"), (_PYTHON, "Python Run"),
    (_TEXT, "Text Processing"), (_SHELL, "Shell/Environment"),
)  # fmt: skip
_BY_BURST = (
    (_TEST, "Test Execution"), (_PACKAGE, "Package Install"), (_GIT, "Git Operations"),
    (_SNIPPET, "Python Snippet"), (_PYTHON, "Python Run"), (_FILES, "File Exploration"),
    (_TEXT, "Text Processing"),
)  # fmt: skip
_TIMELINE_TOOLS = ("Bash", "Read", "Edit", "Grep", "Task", "Write", "TodoWrite")


def bash_category(command: str) -> str:
    """Of nine kinds, as the paper's table of Bash time has them."""
    return _first(_BY_TIME, command)


def burst_category(command: str) -> str:
    """Of eight kinds in another order, as the paper's table of spikes has them."""
    return _first(_BY_BURST, command)


def _first(order: Iterable[tuple[re.Pattern[str], str]], command: str) -> str:
    lowered = command.strip().lower()
    return next((name for pattern, name in order if pattern.search(lowered)), "Other")


def tool_time_s(run: Run) -> float:
    """Plain sum over calls: parallel and sub-agents' calls count twice."""
    return sum(max(0.0, call.duration_s) for call in run.calls)


def union_s(calls: Sequence[Call]) -> float:
    """Time in which at least one call ran."""
    spans = sorted(
        (call.begin_s, call.end_s)
        for call in calls
        if call.begin_s is not None and call.end_s is not None and call.end_s > call.begin_s
    )
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def latency_breakdown(
    rows: Sequence[tuple[float, float, float, float]],
) -> dict[str, dict[str, float]]:
    """Of (permission fix, container, active, tool) seconds a task: mean and median percent.

    v1 counts the permission fix in the denominator, v2 does not (the paper's headline).
    """
    shares: dict[str, list[float]] = {}
    for fix, whole, active, tool in rows:
        parts = {"init": whole - active, "tool": tool, "llm": active - tool}
        parts["infra"] = parts["init"] + tool
        for view, total in (("v1", fix + whole), ("v2", whole)):
            for name, seconds in parts.items():
                extra = fix if view == "v1" and name == "infra" else 0.0
                share = 100 * (seconds + extra) / total
                shares.setdefault(f"{view}_{name}", []).append(share)
        shares.setdefault("v1_pf", []).append(100 * fix / (fix + whole))
    return {
        name: {"mean": float(np.mean(values)), "median": float(np.median(values))}
        for name, values in sorted(shares.items())
    }


def tool_ratio(rows: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (tool, active) seconds a task."""
    return spread([100 * tool / active for tool, active in rows if active > 0])


def tool_stats(runs: Sequence[Run], *, spreads: bool = False) -> dict[str, dict[str, float]]:
    """Finished calls by tool: count, total and mean seconds; with `spreads` their distribution."""
    totals: dict[str, list[float]] = {}
    for run in runs:
        for call in run.calls:
            if call.begin_s is not None and call.end_s is not None:
                totals.setdefault(call.tool, []).append(max(0.0, call.duration_s))
    return {
        tool: {
            "count": len(all_s),
            "total_s": sum(all_s),
            "avg_s": sum(all_s) / len(all_s),
            **(_distribution(all_s) if spreads else {}),
        }
        for tool, all_s in totals.items()
    }


def _distribution(values_s: list[float]) -> dict[str, float]:
    figures = spread(values_s)
    return {"median_s": figures["median"], "p95_s": figures["p95"], "max_s": figures["max"]}


def run_to_run(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Execution times of tasks that were attempted several times: longest over shortest."""
    by_task: dict[str, list[float]] = {}
    for run in runs:
        if run.times is not None:
            by_task.setdefault(run.name.partition("@")[0], []).append(run.times.claude_s)
    return {
        task: {
            "count": len(all_s),
            "min_s": min(all_s),
            "max_s": max(all_s),
            "ratio": max(all_s) / min(all_s),
        }
        for task, all_s in by_task.items()
        if len(all_s) > 1 and min(all_s) > 0
    }


def bash_category_times(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Seconds and percent of all Bash time."""
    totals: dict[str, float] = {}
    for run in runs:
        for call in run.calls:
            if call.tool == "Bash" and call.end_s is not None and call.duration_s >= 0:
                name = bash_category(call.command)
                totals[name] = totals.get(name, 0.0) + call.duration_s
    whole = sum(totals.values())
    return {
        name: {"s": seconds, "pct": 100 * seconds / whole if whole else 0.0}
        for name, seconds in sorted(totals.items(), key=lambda item: -item[1])
    }


def tool_timeline(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """When tools are used, by time from first to last call: ten bins, and 0-30-70-100 %."""
    places: dict[str, list[float]] = {}
    for run in runs:
        begins = [call.begin_s for call in run.calls if call.begin_s is not None]
        if len(begins) < 2 or max(begins) <= min(begins):
            continue
        first, whole = min(begins), max(begins) - min(begins)
        for call in run.calls:
            if call.begin_s is not None:
                tool = call.tool if call.tool in _TIMELINE_TOOLS else "Other"
                places.setdefault(tool, []).append((call.begin_s - first) / whole)
    return {tool: _phases(where) for tool, where in places.items()}


def _phases(where: list[float]) -> dict[str, Any]:
    bins = [0] * 10
    for place in where:
        bins[min(9, int(place * 10))] += 1
    total = len(where)
    return {
        "early_pct": 100 * sum(bins[:3]) / total,
        "mid_pct": 100 * sum(bins[3:7]) / total,
        "late_pct": 100 * sum(bins[7:]) / total,
        "total": total,
        "bins": bins,
    }
