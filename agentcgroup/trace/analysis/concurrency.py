# SPDX-License-Identifier: Apache-2.0
"""How much memory N agents need together: the paper's draw of traces with random offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .memory import trajectory
from .runs import Array

__all__ = ["LEVELS", "draw_offsets", "simulate_concurrency"]

LEVELS = (2, 4, 8, 16, 32, 64)
DRAWS = 200
SEED = 42
_POINTS = 100


def draw_offsets(rng: np.random.Generator, traces: int, count: int) -> tuple[Any, list[int]]:
    """One draw: which traces (with replacement), and where each begins in a row of 200 points."""
    chosen = rng.choice(traces, size=count, replace=True)
    return chosen, [int(rng.integers(0, _POINTS)) for _ in range(count)]


def simulate_concurrency(memories: Sequence[Array], levels: Sequence[int] = LEVELS) -> Any:
    """Static: sum of the drawn traces' maxima; dynamic: maximum of their sum. Sizes as given.

    One generator for all N (numpy default_rng(42)), 200 draws each; the order of `memories`
    decides what is drawn.
    """
    rows = np.array([trajectory(memory, _POINTS) for memory in memories])
    peaks = rows.max(axis=1)
    rng = np.random.default_rng(SEED)
    found = {}
    for count in levels:
        static, dynamic = [], []
        for _ in range(DRAWS):
            chosen, offsets = draw_offsets(rng, len(rows), count)
            total = np.zeros(2 * _POINTS)
            for index, offset in zip(chosen, offsets, strict=True):
                total[offset : offset + _POINTS] += rows[index]
            static.append(peaks[chosen].sum())
            dynamic.append(total.max())
        mean_static, mean_dynamic = float(np.mean(static)), float(np.mean(dynamic))
        found[str(count)] = {
            "static_alloc_avg": mean_static,
            "dynamic_peak_avg": mean_dynamic,
            "dynamic_peak_p95": float(np.percentile(dynamic, 95)),
            "savings_pct": 100 * (1 - mean_dynamic / mean_static),
            "stat_mux_gain": mean_static / mean_dynamic,
        }
    return {
        "n_traces": len(rows),
        "avg_peak": float(np.mean([memory.max() for memory in memories])),
        "max_peak": float(max(memory.max() for memory in memories)),
        "avg_avg": float(np.mean([memory.mean() for memory in memories])),
        "simulation": found,
    }
