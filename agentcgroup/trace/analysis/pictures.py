# SPDX-License-Identifier: Apache-2.0
"""Pictures of the study, one PNG each. Colours are told apart without colour vision (Okabe-Ito)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .concurrency import LEVELS
from .corrected import corrected_figures, corrected_over_sets
from .memory import trajectory
from .runs import Run, is_valid, labelled

__all__ = ["draw_pictures"]

BLUE, ORANGE, GREEN, YELLOW, PURPLE, SKY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9",
)  # fmt: skip
_SET_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)

Sets = Mapping[str, Sequence[Run]]


def draw_pictures(directory: Path, sets: Sets) -> list[Path]:
    """What the runs can show; the files that were written."""
    directory.mkdir(parents=True, exist_ok=True)
    valid = {name: [run for run in labelled(runs) if is_valid(run)] for name, runs in sets.items()}
    valid = {name: runs for name, runs in valid.items() if runs}
    figures = {name: corrected_figures(runs) for name, runs in valid.items()}
    drawn = []
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        pictures: tuple[tuple[str, Callable[[Any], None]], ...] = (
            ("latency", lambda axes: _latency(axes, figures)),
            ("bash", lambda axes: _bash(axes, figures)),
            ("peaks", lambda axes: _peaks(axes, valid)),
            ("trajectory", lambda axes: _trajectory(axes, valid)),
            ("concurrency", lambda axes: _concurrency(axes, valid)),
        )
        for name, draw in pictures:
            figure = Figure(figsize=(7, 4), layout="constrained")
            axes = figure.subplots()
            draw(axes)
            if axes.has_data():
                path = directory / f"{name}.png"
                figure.savefig(path, dpi=150)
                drawn.append(path)
    return drawn


def _latency(axes: Any, figures: Mapping[str, Any]) -> None:
    parts = (("v2_init", "container", YELLOW), ("v2_tool", "tools", BLUE), ("v2_llm", "model", SKY))
    known = {
        name: f["latency_breakdown_pct"] for name, f in figures.items() if "claude_time_s" in f
    }
    for row, (_, shares) in enumerate(known.items()):
        left = 0.0
        for key, label, colour in parts:
            width = shares[key]["mean"]
            axes.barh(row, width, left=left, color=colour, label=label if row == 0 else None)
            ink = "white" if colour == BLUE else "black"
            axes.text(left + width / 2, row, f"{width:.0f}", ha="center", va="center", color=ink)
            left += width
    axes.set_yticks(range(len(known)), list(known))
    axes.invert_yaxis()
    axes.set_xlabel("share of the execution time (%, mean over tasks)")
    if known:
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _bash(axes: Any, figures: Mapping[str, Any]) -> None:
    kinds = sorted({kind for f in figures.values() for kind in f["bash_category_time_s"]})
    height = 0.8 / max(len(figures), 1)
    for number, (name, found) in enumerate(figures.items()):
        shares = [found["bash_category_time_s"].get(kind, {}).get("pct", 0.0) for kind in kinds]
        at = np.arange(len(kinds)) + number * height
        axes.barh(at, shares, height, label=name, color=_SET_COLOURS[number % 6])
    axes.set_yticks(np.arange(len(kinds)) + 0.4 - height / 2, kinds)
    axes.invert_yaxis()
    axes.set_xlabel("share of Bash time (%)")
    if kinds:
        axes.legend(frameon=False)


def _peaks(axes: Any, sets: Sets) -> None:
    for number, (name, runs) in enumerate(sets.items()):
        colour = _SET_COLOURS[number % 6]
        for values, style, what in (
            (sorted(float(run.memory_mb.max()) for run in runs), "-", "peak"),
            (sorted(float(run.memory_mb[run.memory_mb > 0].mean()) for run in runs), ":", "mean"),
        ):
            share = np.arange(1, len(values) + 1) / len(values)
            axes.step(values, share, style, where="post", color=colour, label=f"{name}, {what}")
    axes.set_xscale("log")
    for axis_part in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_part("{x:.0f}")
    axes.set_xlabel("memory of a task (MB, log scale)")
    axes.set_ylabel("share of tasks")
    axes.legend(frameon=False)


def _trajectory(axes: Any, sets: Sets) -> None:
    for number, (name, runs) in enumerate(sets.items()):
        rows = np.array([trajectory(run.memory_mb[run.memory_mb > 0]) for run in runs])
        colour = _SET_COLOURS[number % 6]
        at = np.linspace(0, 100, rows.shape[1])
        axes.plot(at, rows.mean(axis=0), color=colour, label=f"{name}, mean")
        axes.plot(
            at, np.percentile(rows, 95, axis=0), ":", color=colour, label=f"{name}, 95th percentile"
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("part of the run (%)")
    axes.set_ylabel("memory (MB)")
    axes.legend(frameon=False)


def _concurrency(axes: Any, sets: Sets) -> None:
    found = corrected_over_sets(sets)["concurrency_sim"]["simulation"]
    counts = [str(level) for level in LEVELS]
    static = [found[count]["static_alloc_avg"] / 1000 for count in counts]
    dynamic = [found[count]["dynamic_peak_avg"] / 1000 for count in counts]
    high = [found[count]["dynamic_peak_p95"] / 1000 for count in counts]
    axes.plot(LEVELS, static, "o-", color=ORANGE, label="sum of peaks")
    axes.plot(LEVELS, dynamic, "s-", color=BLUE, label="peak of the sum, mean")
    axes.plot(LEVELS, high, "^:", color=BLUE, label="peak of the sum, 95th percentile")
    axes.set_xlabel("agents at the same time")
    axes.set_ylabel("memory (GB)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
