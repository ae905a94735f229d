# SPDX-License-Identifier: Apache-2.0
"""The authors' figures bug for bug, in the nesting of their reference values. Unrounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import attribution, concurrency, memory, times, tokens
from .runs import Array, Call, Run, is_valid, labelled, spread

__all__ = ["SET_KEYS", "as_authors", "disk_figures", "set_figures"]

SET_KEYS = {"all_images_haiku": "haiku", "all_images_local": "local"}


def as_authors(sets: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """`haiku`, `local` (or a set's own name), and what is over both."""
    named = {SET_KEYS.get(name, name): labelled(runs) for name, runs in sets.items()}
    found: dict[str, Any] = {name: set_figures(runs) for name, runs in named.items()}
    order: list[str] = [key for key in ("haiku", "local") if key in named] or list(named)
    together = [
        run.memory_cut_mb
        for key in order
        for run in named[key]
        if is_valid(run) and len(run.memory_cut_mb) >= 10
    ]
    if together:
        found["concurrency_sim"] = concurrency.simulate_concurrency(together)
    if "haiku" in named and "local" in named:
        found["haiku_vs_local"] = _common_tasks(named["haiku"], named["local"])
        found["api_vs_local"] = _api_and_local(named["haiku"], named["local"])
    return found


def cut_reading(run: Run) -> tuple[Array, Array]:
    """Memory as the authors' insights script reads it, CPU as printed."""
    return run.memory_cut_mb, run.cpu_average_pct


def set_figures(every: Sequence[Run]) -> dict[str, Any]:
    """One set; runs that never took place count only where the authors count them."""
    runs = [run for run in every if is_valid(run) and run.times is not None]
    if not runs:
        return {"n_tasks": 0}
    return {
        "n_tasks": len(runs),
        "success": sum(run.success is True for run in runs),
        **_time_figures(runs),
        **_resource_figures(runs, [run for run in every if run.summary and len(run.epoch_s) > 1]),
        **_insight_figures([_from_tool_calls(run) for run in runs]),
    }


def _from_tool_calls(run: Run) -> Run:
    """The run as scripts see it that read tool_calls.json alone."""
    if not any(call.end_elsewhere for call in run.calls):
        return run
    calls = tuple(Call(c.tool, c.begin_s, None) if c.end_elsewhere else c for c in run.calls)
    return replace(run, calls=calls)


def _time_figures(runs: Sequence[Run]) -> dict[str, Any]:
    timed = [(run.times, run.active_s, times.tool_time_s(run)) for run in runs if run.times]
    return {
        "claude_time_s": spread([t.claude_s for t, _, _ in timed]),
        "active_time_s": spread([active for _, active, _ in timed]),
        "latency_breakdown_pct": times.latency_breakdown(
            [(t.permission_fix_s, t.claude_s, active, tool) for t, active, tool in timed]
        ),
        "tool_ratio_active_pct": times.tool_ratio([(tool, active) for _, active, tool in timed]),
        "tool_stats": times.tool_stats(runs),
        "bash_category_time_s": times.bash_category_times([_from_tool_calls(r) for r in runs]),
        "tool_timeline": times.tool_timeline(runs),
        "disk": disk_figures(runs),
    }


def disk_figures(runs: Sequence[Run]) -> dict[str, Any]:
    sizes = [run.times.image_mb for run in runs if run.times and run.times.image_mb > 0]
    pulls = [run.times.pull_s for run in runs if run.times and run.times.pull_s > 0]
    fixes = [
        run.times.permission_fix_s for run in runs if run.times and run.times.permission_fix_s > 0
    ]
    found: dict[str, Any] = {}
    for name, values, unit in (
        ("image_size", sizes, "mb"), ("pull_time", pulls, "s"), ("permission_fix_time", fixes, "s"),
    ):  # fmt: skip
        figures = spread(values)
        found[name] = {
            "count": figures["n"],
            f"min_{unit}": figures["min"], f"max_{unit}": figures["max"],
            f"avg_{unit}": figures["mean"], f"median_{unit}": figures["median"],
        }  # fmt: skip
    found["image_size"]["total_gb"] = sum(sizes) / 1024
    return found


def _resource_figures(runs: Sequence[Run], summed: Sequence[Run]) -> dict[str, Any]:
    figures = [run.summary for run in runs if run.summary]
    overprov = {
        "cpu": memory.overprovisioning([(s.cpu_max_pct, s.cpu_mean_pct) for s in figures]),
        "mem": memory.overprovisioning([(s.peak_mb, s.mean_mb) for s in figures]),
    }
    every = [run.summary for run in summed if run.summary]
    rates = memory.change_rates(
        [(run.epoch_s, run.memory_1024_mb, run.cpu_average_pct) for run in runs]
    )
    del rates["above_100_mb_per_s_pct"]
    return {
        "change_rate": rates,
        "overprov": overprov,
        "rq1": memory.changes_per_pair([(r.memory_1024_mb, r.cpu_average_pct) for r in summed]),
        "rq2": memory.peak_spread([s.peak_mb for s in every], [s.cpu_max_pct for s in every]),
        "rq4": memory.utilisation(
            memory.overprovisioning([(s.peak_mb, s.mean_mb) for s in every]),
            memory.overprovisioning([(s.cpu_max_pct, s.cpu_mean_pct) for s in every]),
        ),
        "top_burst": memory.top_bursts(
            [
                (run.name, run.summary.peak_mb, run.summary.mean_mb, run.memory_1024_mb)
                for run in runs
                if run.summary
            ]
        ),
        "cpu_mem_corr": memory.cpu_memory_correlation(
            [(run.cpu_average_pct, run.memory_1024_mb) for run in runs]
        ),
        "concurrency_naive": memory.concurrency_naive(runs),
        "mem_trajectory_phases": memory.trajectory_phases([run.memory_1024_mb for run in runs]),
    }  # fmt: skip


def _insight_figures(runs: Sequence[Run]) -> dict[str, Any]:
    by_tool, by_kind = attribution.spikes(runs, cut_reading)
    correlations, counted = tokens.token_correlations(runs, by_record=True)
    groups = [len(attribution.groups_in_a_row(run.calls, attribution.is_bash)) for run in runs]
    return {
        "retry_groups_all_tasks": {
            "min": min(groups), "max": max(groups),
            "avg": float(np.mean(groups)), "total": sum(groups),
        },
        "tokens": tokens.token_figures(runs, by_record=True),
        "burst_attr": attribution.burst_attribution(runs, cut_reading),
        "tool_burst": by_tool,
        "bash_burst": by_kind,
        "retry_waste": attribution.retry_waste(runs, cut_reading),
        "token_corr": correlations,
        "token_corr_n": counted,
    }  # fmt: skip


def _common_tasks(haiku: Sequence[Run], local: Sequence[Run]) -> dict[str, Any]:
    """Means over the tasks that are valid in both sets."""
    first = {run.name: run for run in haiku if is_valid(run) and run.times}
    second = {run.name: run for run in local if is_valid(run) and run.times}
    common = sorted(first.keys() & second.keys())
    found: dict[str, Any] = {"n_tasks": len(common)}
    if not common:
        return found
    for key, runs in (("haiku", first), ("local", second)):
        figures = [runs[name].summary for name in common]
        found[f"{key}_avg_duration"] = float(np.mean([s.duration_s for s in figures if s]))
        found[f"{key}_avg_mem"] = float(np.mean([s.peak_mb for s in figures if s]))
        found[f"{key}_avg_cpu"] = float(np.mean([s.cpu_mean_pct for s in figures if s]))
        claude = [t.claude_s for name in common if (t := runs[name].times) is not None]
        found[f"{key}_avg_time"] = float(np.mean(claude))
    found["time_ratio"] = found["local_avg_time"] / found["haiku_avg_time"]
    found["mem_ratio"] = found["haiku_avg_mem"] / found["local_avg_mem"]
    found["cpu_ratio"] = found["haiku_avg_cpu"] / found["local_avg_cpu"]
    return found


def _api_and_local(haiku: Sequence[Run], local: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: memory.high_cpu([(r.memory_1024_mb, r.cpu_average_pct) for r in runs if is_valid(r)])
        for key, runs in (("haiku", haiku), ("qwen", local))
    }
    found["cpu_ratio"] = found["haiku"]["cpu_avg"] / found["qwen"]["cpu_avg"]
    return found
