# SPDX-License-Identifier: Apache-2.0
"""Sizes and changes: rates, peaks against means, trajectories, CPU beside memory. MB = 10^6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .runs import Array, Run, spread

__all__ = [
    "change_rates", "changes_per_pair", "concurrency_naive", "cpu_memory_correlation",
    "high_cpu", "overprovisioning", "peak_spread", "top_bursts", "trajectory_phases", "utilisation",
]  # fmt: skip

CPU_STEP_PCT = 20.0
MEMORY_STEP_MB = 50.0
LARGE_STEP_MB = 100.0
_POINTS = 100
_LONGEST_GAP_S = 2.0


def change_rates(series: Sequence[tuple[Array, Array, Array]]) -> dict[str, Any]:
    """Of (time, memory, CPU): absolute changes per second between samples less than 2 s apart.

    An event: more than 20 % of a core or 50 MB per second.
    """
    cpu_rates: list[Array] = []
    memory_rates: list[Array] = []
    events = large = 0
    for epochs, memory, cpu in series:
        elapsed = np.diff(epochs)
        near = (elapsed > 0) & (elapsed < _LONGEST_GAP_S)
        steps = elapsed[near]
        cpu_rate = np.abs(np.diff(cpu))[near] / steps
        memory_rate = np.abs(np.diff(memory))[near] / steps
        events += int(((cpu_rate > CPU_STEP_PCT) | (memory_rate > MEMORY_STEP_MB)).sum())
        large += int((memory_rate > LARGE_STEP_MB).sum())
        cpu_rates.append(cpu_rate)
        memory_rates.append(memory_rate)
    memory_all = np.concatenate(memory_rates) if memory_rates else np.zeros(0)
    pairs = len(memory_all)
    return {
        "cpu_pct_per_s": spread(np.concatenate(cpu_rates) if cpu_rates else []),
        "mem_mb_per_s": spread(memory_all),
        "burst_events": events,
        "pairs": pairs,
        "burst_pct": 100 * events / pairs if pairs else None,
        "above_100_mb_per_s_pct": 100 * large / pairs if pairs else None,
    }


def changes_per_pair(series: Sequence[tuple[Array, Array]]) -> dict[str, Any]:
    """Of (memory, CPU): absolute changes from sample to sample, however far apart."""
    cpu = np.concatenate([np.abs(np.diff(c)) for _, c in series])
    memory = np.concatenate([np.abs(np.diff(m)) for m, _ in series])
    return {
        "total_samples": len(cpu),
        "cpu_delta_mean": float(cpu.mean()),
        "cpu_delta_max": float(cpu.max()),
        "cpu_burst_count": int((cpu > CPU_STEP_PCT).sum()),
        "mem_delta_mean": float(memory.mean()),
        "mem_delta_max": float(memory.max()),
        "mem_burst_count": int((memory > MEMORY_STEP_MB).sum()),
        "total_burst_events": int(((cpu > CPU_STEP_PCT) | (memory > MEMORY_STEP_MB)).sum()),
    }


def overprovisioning(peaks_and_means: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Peak over mean, a task each."""
    return spread([peak / mean for peak, mean in peaks_and_means if mean > 0])


def utilisation(memory: dict[str, Any], cpu: dict[str, Any]) -> dict[str, Any]:
    """What a limit at the peak leaves used: 100 / mean factor, percent."""
    return {
        "mem_overprov_mean": memory["mean"],
        "mem_overprov_max": memory["max"],
        "cpu_overprov_mean": cpu["mean"] or 0,
        "cpu_overprov_max": cpu["max"] or 0,
        "mem_utilization": 100 / memory["mean"] if memory["mean"] else 0,
        "cpu_utilization": 100 / cpu["mean"] if cpu["mean"] else 0,
    }


def peak_spread(peaks_mb: Sequence[float], cpu_peaks_pct: Sequence[float]) -> dict[str, Any]:
    """Range and coefficient of variation (sample standard deviation / mean, percent)."""
    peaks = np.array([peak for peak in peaks_mb if peak > 0])
    cpus = [peak for peak in cpu_peaks_pct if peak > 0]
    several = len(peaks) > 1
    return {
        "task_count": len(peaks),
        "peak_mem_min": float(peaks.min()),
        "peak_mem_max": float(peaks.max()),
        "peak_mem_mean": float(peaks.mean()),
        "peak_mem_cv": float(100 * peaks.std(ddof=1) / peaks.mean()) if several else 0,
        "peak_cpu_min": min(cpus, default=0),
        "peak_cpu_max": max(cpus, default=0),
    }


def top_bursts(rows: Sequence[tuple[str, float, float, Array]], count: int = 2) -> list[Any]:
    """Of (task, peak, mean, memory): the largest peak / mean, and for how many samples in a row
    memory was at 80 % of the peak or above."""
    ranked = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[1] / row[2])
    return [
        {
            "task": name,
            "peak_mb": peak,
            "avg_mb": mean,
            "overprov_factor": peak / mean,
            "spike_duration_samples": _longest_run(memory >= 0.8 * peak),
        }
        for name, peak, mean, memory in ranked[:count]
    ]


def _longest_run(mask: Any) -> int:
    longest = running = 0
    for held in mask:
        running = running + 1 if held else 0
        longest = max(longest, running)
    return longest


def cpu_memory_correlation(series: Sequence[tuple[Array, Array]]) -> dict[str, float]:
    """Pearson's r of (CPU, memory) a task, over tasks with ten samples and both moving."""
    found = [
        float(np.corrcoef(cpu, memory)[0, 1])
        for cpu, memory in series
        if len(cpu) >= 10 and cpu.std() > 0 and memory.std() > 0
    ]
    if not found:
        return {}
    return {
        "min": min(found), "max": max(found),
        "avg": float(np.mean(found)), "median": float(np.median(found)),
    }  # fmt: skip


def trajectory(memory: Array, points: int = _POINTS) -> Array:
    """Interpolated to equally many points from begin to end."""
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(memory)), memory)


def trajectory_phases(memories: Sequence[Array]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and maximum over all tasks' points in each third."""
    rows = np.array([trajectory(memory) for memory in memories])
    thirds = {"early": rows[:, :33], "mid": rows[:, 33:66], "late": rows[:, 66:]}
    return {
        name: {"mean": float(part.mean()), "std": float(part.std()), "max": float(part.max())}
        for name, part in thirds.items()
    }


def concurrency_naive(runs: Sequence[Run]) -> dict[str, Any]:
    """One core divided by the mean and by the largest CPU of a task."""
    summaries = [run.summary for run in runs if run.summary is not None]
    mean_cpu = float(np.mean([s.cpu_mean_pct for s in summaries]))
    max_cpu = max(s.cpu_max_pct for s in summaries)
    return {
        "task_count": len(summaries),
        "cpu": {
            "avg": mean_cpu,
            "max": max_cpu,
            "theoretical_concurrency": 100 / mean_cpu if mean_cpu else None,
            "practical_concurrency": 100 / max_cpu if max_cpu else None,
            "concurrency_gap": max_cpu / mean_cpu if mean_cpu else None,
        },
        "memory": {
            "avg_mb": float(np.mean([s.mean_mb for s in summaries])),
            "max_mb": max(s.peak_mb for s in summaries),
        },
    }


def high_cpu(series: Sequence[tuple[Array, Array]]) -> dict[str, Any]:
    """Of all (memory, CPU) samples: means, maxima, share above 50 % and 100 % of a core."""
    cpu = np.concatenate([c for _, c in series])
    memory = np.concatenate([m for m, _ in series])
    return {
        "total_samples": len(cpu),
        "cpu_avg": float(cpu.mean()),
        "cpu_max": float(cpu.max()),
        "mem_avg": float(memory.mean()),
        "mem_max": float(memory.max()),
        "high_cpu_pct": float(100 * (cpu > 50).mean()),
        "very_high_cpu_pct": float(100 * (cpu > 100).mean()),
    }
