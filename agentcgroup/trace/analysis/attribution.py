# SPDX-License-Identifier: Apache-2.0
"""Which samples belong to tool calls, what a call adds, and what repeated calls cost. MB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .runs import Array, Call, Run
from .times import burst_category

__all__ = ["Reading", "burst_attribution", "groups_in_a_row", "retry_waste", "spikes"]

# Of a run: its memory in MB and its CPU in percent of a core, an entry a sample.
Reading = Callable[[Run], tuple[Array, Array]]

MEMORY_BURST_MB = 300.0
CPU_BURST_PCT = 30.0
_SHORTEST_CALL_S = 0.1
_FEWEST_SAMPLES = 10
_GROUP = 3


def burst_attribution(runs: Sequence[Run], reading: Reading) -> dict[str, Any]:
    """Samples inside of tool calls, of all and of those above 300 MB and above 30 % of a core."""
    counts = np.zeros(6, dtype=int)
    for run in runs:
        if len(run.epoch_s) < _FEWEST_SAMPLES:
            continue
        memory, cpu = reading(run)
        inside = np.zeros(len(run.epoch_s), dtype=bool)
        for call in run.calls:
            inside |= _during(run.epoch_s, call)
        large, busy = memory > MEMORY_BURST_MB, cpu > CPU_BURST_PCT
        counts += [
            len(inside), inside.sum(), large.sum(), (large & inside).sum(),
            busy.sum(), (busy & inside).sum(),
        ]  # fmt: skip
    total, in_tool, large_n, large_in, busy_n, busy_in = (int(count) for count in counts)
    tool_pct = 100 * in_tool / max(total, 1)
    memory_pct = 100 * large_in / max(large_n, 1)
    cpu_pct = 100 * busy_in / max(busy_n, 1)
    return {
        "total_samples": total,
        "tool_samples": in_tool,
        "tool_time_pct": tool_pct,
        "mem_burst_tool_pct": memory_pct,
        "mem_burst_llm_pct": 100 * (large_n - large_in) / max(large_n, 1),
        "cpu_burst_tool_pct": cpu_pct,
        "cpu_burst_llm_pct": 100 * (busy_n - busy_in) / max(busy_n, 1),
        "mem_burst_concentration": memory_pct / max(tool_pct, 0.1),
        "cpu_burst_concentration": cpu_pct / max(tool_pct, 0.1),
    }


def _during(epochs: Array, call: Call) -> Any:
    if call.begin_s is None or call.end_s is None:
        return np.zeros(len(epochs), dtype=bool)
    return (epochs >= call.begin_s) & (epochs <= call.end_s)


def spikes(runs: Sequence[Run], reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    """By tool, and by kind of Bash command with two calls or more.

    A call's spike: the largest sample in it less the last one before it; calls of 0.1 s and
    more that contain a sample.
    """
    by_tool: dict[str, list[tuple[float, ...]]] = {}
    by_kind: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        if len(run.epoch_s) < _FEWEST_SAMPLES:
            continue
        memory, cpu = reading(run)
        for call in run.calls:
            found = _spike(run.epoch_s, memory, cpu, call)
            if found is not None:
                by_tool.setdefault(call.tool, []).append(found)
                if call.tool == "Bash":
                    by_kind.setdefault(burst_category(call.command), []).append(found)
    tools = {name: _spike_figures(rows, peaks=True) for name, rows in sorted(by_tool.items())}
    kinds = {
        name: _spike_figures(rows, peaks=False)
        for name, rows in sorted(by_kind.items())
        if len(rows) >= 2
    }
    return tools, kinds


def _spike(epochs: Array, memory: Array, cpu: Array, call: Call) -> tuple[float, ...] | None:
    if call.duration_s < _SHORTEST_CALL_S:
        return None
    inside = _during(epochs, call)
    if not inside.any():
        return None
    before = int(np.searchsorted(epochs, call.begin_s or 0.0, side="left")) - 1
    at = before if before >= 0 else int(np.argmax(inside))
    peak_mb, peak_pct = memory[inside].max(), cpu[inside].max()
    return tuple(map(float, (peak_mb - memory[at], peak_pct - cpu[at], peak_mb, peak_pct)))


def _spike_figures(rows: list[tuple[float, ...]], *, peaks: bool) -> dict[str, Any]:
    memory, cpu, peak_mb, peak_pct = np.array(rows).T
    figures: dict[str, Any] = {
        "count": len(rows),
        "mean_mem_spike": float(memory.mean()),
        "p95_mem_spike": float(np.percentile(memory, 95)),
        "max_mem_spike": float(memory.max()),
        "mean_cpu_spike": float(cpu.mean()),
        "p95_cpu_spike": float(np.percentile(cpu, 95)),
    }
    if peaks:
        figures["mean_peak_mem"] = float(peak_mb.mean())
        figures["mean_peak_cpu"] = float(peak_pct.mean())
    return figures


def groups_in_a_row(calls: Sequence[Call], belongs: Callable[[Call], bool]) -> list[list[Call]]:
    """Runs of three and more calls in a row that belong."""
    groups: list[list[Call]] = []
    current: list[Call] = []
    for call in calls:
        if belongs(call):
            current.append(call)
            continue
        groups.append(current)
        current = []
    groups.append(current)
    return [group for group in groups if len(group) >= _GROUP]


def is_bash(call: Call) -> bool:
    return call.tool == "Bash" and call.begin_s is not None


def retry_waste(
    runs: Sequence[Run], reading: Reading, belongs: Callable[[Call], bool] = is_bash
) -> dict[str, Any]:
    """Over tasks that have groups: how many, their time, what memory they leave behind.

    Left behind: first sample at or after the group's end less the last at or before its
    begin, never below 0, summed over the groups.
    """
    rows = []
    for run in runs:
        if not run.calls or len(run.epoch_s) < _FEWEST_SAMPLES or run.times is None:
            continue
        groups = groups_in_a_row(run.calls, belongs)
        if not groups:
            continue
        memory, _ = reading(run)
        spent = sum(sum(call.duration_s for call in group) for group in groups)
        left = sum(_left_behind(run.epoch_s, memory, group) for group in groups)
        longest = max(len(group) for group in groups)
        rows.append((len(groups), spent, 100 * spent / max(run.times.claude_s, 1), left, longest))
    if not rows:
        return {"tasks_with_retries": 0}
    groups_n, spent_s, share, left_mb, longest_n = zip(*rows, strict=True)
    return {
        "tasks_with_retries": len(rows),
        "avg_retry_groups": float(np.mean(groups_n)),
        "max_retry_groups": max(groups_n),
        "avg_retry_time": float(np.mean(spent_s)),
        "avg_retry_time_pct": float(np.mean(share)),
        "avg_mem_accumulation": float(np.mean(left_mb)),
        "max_mem_accumulation": max(left_mb),
        "max_group_size": max(longest_n),
    }


def _left_behind(epochs: Array, memory: Array, group: list[Call]) -> float:
    begin = group[0].begin_s or 0.0
    end = group[-1].end_s or group[-1].begin_s or 0.0
    before = int(np.searchsorted(epochs, begin, side="right")) - 1
    after = int(np.searchsorted(epochs, end, side="left"))
    first = float(memory[before]) if before >= 0 else 0.0
    last = float(memory[after]) if after < len(memory) else 0.0
    return max(0.0, last - first)
