# SPDX-License-Identifier: Apache-2.0
"""The paper's quantities as they should have been computed (docs/analysis.md). MB = 10^6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import attribution, concurrency, memory, times, tokens
from .authors import SET_KEYS, disk_figures
from .runs import Array, Call, Run, is_valid, labelled, spread

__all__ = ["corrected_figures", "corrected_over_sets"]

# Between the agent's trace and the sampling in runs that have both: 1.6 to 2.8 s.
_SAMPLING_BEYOND_TRACE_S = 2.2
_STARTING_MB = 50.0


def right_reading(run: Run) -> tuple[Array, Array]:
    return run.memory_mb, run.cpu_load_pct


def present(run: Run) -> tuple[Array, Array, Array]:
    """(time, memory, CPU load) of the samples in which the container was there."""
    there = run.memory_mb > 0
    return run.epoch_s[there], run.memory_mb[there], run.cpu_load_pct[there]


def active_s(run: Run) -> float | None:
    if run.times is not None and run.times.active_s is not None:
        return run.times.active_s
    if run.summary is None:
        return None
    return max(0.0, run.summary.duration_s - _SAMPLING_BEYOND_TRACE_S)


def corrected_figures(every: Sequence[Run]) -> dict[str, Any]:
    """One set, by the names of the definitions."""
    runs = [run for run in every if is_valid(run)]
    if not runs:
        return {}
    return {
        **_time_figures(runs),
        **_resource_figures(runs),
        **_call_figures(runs),
        **_token_figures(runs),
    }


def corrected_over_sets(sets: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """What is over all sets: concurrency, and the tasks in both of the paper's."""
    order = sorted(sets, key=lambda name: list(SET_KEYS).index(name) if name in SET_KEYS else 9)
    named = [name for name in order if name in SET_KEYS] or order
    runs = [run for name in named for run in labelled(sets[name]) if is_valid(run)]
    found: dict[str, Any] = {}
    if runs:
        found["concurrency_sim"] = concurrency.simulate_concurrency([r.memory_mb for r in runs])
    if all(name in sets for name in SET_KEYS):
        found["common_tasks"] = _common_tasks(sets)
    return found


def _time_figures(runs: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tool_stats": times.tool_stats(runs, spreads=True),
        "bash_category_time_s": times.bash_category_times(runs),
        "tool_timeline": times.tool_timeline(runs),
    }
    actives = {run.name: active_s(run) for run in runs}
    rows = [
        (run.times, active, min(times.union_s(run.calls), active))
        for run in runs
        if run.times is not None and (active := actives[run.name]) is not None
    ]
    found["active_time_s"] = spread([value for value in actives.values() if value is not None])
    found["tool_ratio_active_pct"] = times.tool_ratio(
        [
            (min(times.union_s(run.calls), active), active)
            for run in runs
            if (active := actives[run.name]) is not None
        ]
    )
    if rows:
        found["claude_time_s"] = spread([t.claude_s for t, _, _ in rows])
        found["disk"] = disk_figures(runs)
        found["latency_breakdown_pct"] = times.latency_breakdown(
            [(t.permission_fix_s, t.claude_s, active, tool) for t, active, tool in rows]
        )
    return found


def _resource_figures(runs: Sequence[Run]) -> dict[str, Any]:
    series = [present(run) for run in runs]
    peaks = [float(m.max()) for _, m, _ in series]
    # The first sample tells no load.
    moving = [(m[1:], c[1:]) for _, m, c in series]
    cpu_peaks = [float(c.max()) for _, c in moving]
    means = [float(m.mean()) for _, m, _ in series]
    cpu_means = [_mean_cpu_pct(run) for run in runs]
    overprov = {
        "cpu": memory.overprovisioning(list(zip(cpu_peaks, cpu_means, strict=True))),
        "mem": memory.overprovisioning(list(zip(peaks, means, strict=True))),
    }
    cpu_mean, cpu_max = float(np.mean(cpu_means)), max(cpu_peaks)
    loads = np.concatenate([c for _, c in moving])
    return {
        "change_rate": memory.change_rates(series),
        "changes_per_pair": memory.changes_per_pair(moving),
        "peaks": memory.peak_spread(peaks, cpu_peaks),
        "overprov": overprov,
        "utilisation": memory.utilisation(overprov["mem"], overprov["cpu"]),
        "cpu_mem_corr": memory.cpu_memory_correlation([(c, m) for m, c in moving]),
        "mem_trajectory_phases": memory.trajectory_phases([m for _, m, _ in series]),
        "baseline": {"mean_mb": _baseline_mb([m for _, m, _ in series])},
        "concurrency_naive": {
            "task_count": len(runs),
            "cpu": {
                "avg": cpu_mean, "max": cpu_max,
                "theoretical_concurrency": 100 / cpu_mean if cpu_mean else None,
                "practical_concurrency": 100 / cpu_max if cpu_max else None,
                "concurrency_gap": cpu_max / cpu_mean if cpu_mean else None,
            },
            "memory": {"avg_mb": float(np.mean(means)), "max_mb": max(peaks)},
        },
        "cpu_high": {
            "above_50_pct": float(100 * (loads > 50).mean()),
            "above_30_pct": float(100 * (loads > 30).mean()),
        },
    }  # fmt: skip


def _mean_cpu_pct(run: Run) -> float:
    """CPU time over time, of the whole run."""
    elapsed = np.diff(run.epoch_s)
    whole = float(elapsed.sum())
    return float((run.cpu_load_pct[1:] * elapsed).sum() / whole) if whole > 0 else 0.0


def _baseline_mb(memories: Sequence[Array]) -> float | None:
    found = []
    for values in memories:
        first = values[: max(1, len(values) // 10)]
        held = first[first >= _STARTING_MB]
        if len(held):
            found.append(float(held.mean()))
    return float(np.mean(found)) if found else None


def _call_figures(runs: Sequence[Run]) -> dict[str, Any]:
    by_tool, by_kind = attribution.spikes(runs, right_reading)
    return {
        "burst_attr": attribution.burst_attribution(runs, right_reading),
        "cpu_in_tools": {"cpu_time_in_tools_pct": _cpu_in_tools_pct(runs)},
        "tool_burst": by_tool,
        "bash_burst": by_kind,
        "retry_waste": attribution.retry_waste(runs, right_reading),
        "retry_test_groups": attribution.retry_waste(runs, right_reading, _is_test),
        "retry_same_command": {"tasks_with_repeats": sum(map(_repeats_a_command, runs))},
    }


def _is_test(call: Call) -> bool:
    return attribution.is_bash(call) and times.bash_category(call.command) == "Test Execution"


def _repeats_a_command(run: Run) -> bool:
    calls = run.calls
    return any(
        attribution.is_bash(a) and a.command and a.tool == b.tool == c.tool
        and a.command == b.command == c.command
        for a, b, c in zip(calls, calls[1:], calls[2:], strict=False)
    )  # fmt: skip


def _cpu_in_tools_pct(runs: Sequence[Run]) -> float | None:
    """Of all CPU seconds after the first sample, those of intervals that end in a call."""
    inside_s = all_s = 0.0
    for run in runs:
        spent = run.cpu_load_pct[1:] * np.diff(run.epoch_s) / 100
        inside = np.zeros(len(run.epoch_s), dtype=bool)
        for call in run.calls:
            if call.begin_s is not None and call.end_s is not None:
                inside |= (run.epoch_s >= call.begin_s) & (run.epoch_s <= call.end_s)
        inside_s += float(spent[inside[1:]].sum())
        all_s += float(spent.sum())
    return 100 * inside_s / all_s if all_s else None


def _token_figures(runs: Sequence[Run]) -> dict[str, Any]:
    correlations, _ = tokens.token_correlations(runs, by_record=False)
    whole = all(m.output_is_whole for run in runs for m in run.messages)
    if not whole:
        correlations = {k: v for k, v in correlations.items() if not k.startswith("output")}
    return {"tokens": tokens.token_figures(runs, by_record=False), "token_corr": correlations}


def _common_tasks(sets: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    by_set = {
        key: {run.name: run for run in sets[name] if is_valid(run) and run.times}
        for name, key in SET_KEYS.items()
    }
    common = sorted(by_set["haiku"].keys() & by_set["local"].keys())
    if not common:
        return {}
    found: dict[str, Any] = {"n_tasks": len(common)}
    for key, runs in by_set.items():
        found[f"{key}_avg_mem"] = float(np.mean([runs[n].memory_mb.max() for n in common]))
        found[f"{key}_avg_cpu"] = float(np.mean([_mean_cpu_pct(runs[n]) for n in common]))
        claude = [t.claude_s for n in common if (t := runs[n].times) is not None]
        found[f"{key}_avg_time"] = float(np.mean(claude))
    found["time_ratio"] = found["local_avg_time"] / found["haiku_avg_time"]
    found["mem_ratio"] = found["haiku_avg_mem"] / found["local_avg_mem"]
    found["cpu_ratio"] = found["haiku_avg_cpu"] / found["local_avg_cpu"]
    return found
