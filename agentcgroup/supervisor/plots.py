# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation (PNG). Needs matplotlib (extra `report`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import NotSupportedError
from .baselines import seen_share_stops, step_cap_stops
from .evaluation import auc_by_step, figures
from .features import rows_of
from .predictor import Predictor
from .report import Judged, curve, evaluation_report, judge, reliability
from .trajectories import Run, population

__all__ = ["draw"]

_BLUE, _RED, _GREY, _GREEN = "#2471a3", "#c0392b", "#85929e", "#1e8449"
_INCHES = (6.0, 4.0)
_SEEN_SHARES = (0.5, 0.7, 0.9, 0.95, 0.98, 1.0)


def draw(predictor: Predictor, runs: Sequence[Run], folder: Path, seed: int = 0) -> list[Path]:
    """Four files in `folder`; NotSupportedError without matplotlib."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    chosen, _ = population(runs)
    judged = judge(predictor, chosen)
    report = evaluation_report(predictor, chosen, seed)
    pictures: dict[str, Callable[[Any], None]] = {
        "waste_against_drop": partial(_waste, predictor=predictor, judged=judged, report=report),
        "reliability": partial(_reliability, judged=judged),
        "auc_by_step": partial(_auc, judged=judged),
        "drivers": partial(_drivers, predictor=predictor, judged=judged),
    }
    written = []
    for name, panel in pictures.items():
        figure, axis = pyplot.subplots(figsize=_INCHES, constrained_layout=True)
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
        written.append(path)
    return written


def _pyplot() -> Any:
    try:
        import matplotlib  # noqa: PLC0415

        matplotlib.use("Agg")
        from matplotlib import pyplot  # noqa: PLC0415
    except ImportError:
        raise NotSupportedError(
            "cannot draw: matplotlib is not installed; pip install 'agentcgroup[report]',"
            " or leave --plots out"
        ) from None
    return pyplot


def _waste(
    axis: Any, predictor: Predictor, judged: Sequence[Judged], report: dict[str, Any]
) -> None:
    runs = [told.run for told in judged]
    points = curve(predictor, judged)
    axis.plot(
        [100 * drop for drop, _ in points], [100 * saved for _, saved in points],
        color=_BLUE, linewidth=1.3, label="every threshold, on these runs",
    )  # fmt: skip
    for name, marker, every in (
        ("step cap", "s", [step_cap_stops(runs, cap) for cap in range(1, 11)]),
        ("4-grams seen", "^", [seen_share_stops(runs, share) for share in _SEEN_SHARES]),
    ):
        found = [figures(runs, stops) for stops in every]
        axis.plot(
            [100 * (f.utility_drop or 0) for f in found],
            [100 * (f.waste_saved or 0) for f in found],
            marker, color=_GREY, markersize=4, label=name,
        )  # fmt: skip
    if report["waste_saved"] is not None and report["utility_drop"] is not None:
        drop, saved = 100 * report["utility_drop"], 100 * report["waste_saved"]
        axis.errorbar(
            [drop], [saved], color=_RED, marker="o", capsize=3, label="the model's threshold",
            xerr=_bars(drop, report["utility_drop_ci95"]),
            yerr=_bars(saved, report["waste_saved_ci95"]),
        )  # fmt: skip
    axis.set_xlabel("successes stopped, %")
    axis.set_ylabel("wasted energy saved, % (steps)")
    axis.set_xlim(-1, 40)
    axis.legend(frameon=False, fontsize=8)


def _bars(middle: float, interval: Sequence[float]) -> list[list[float]]:
    return [[max(0.0, middle - 100 * interval[0])], [max(0.0, 100 * interval[1] - middle)]]


def _reliability(axis: Any, judged: Sequence[Judged]) -> None:
    told = reliability(judged)
    axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--")
    axis.plot([mean for mean, _, _ in told], [share for _, share, _ in told], "o-", color=_BLUE)
    axis.set_xlabel("score (mean of a tenth of the steps)")
    axis.set_ylabel("share that failed")


def _auc(axis: Any, judged: Sequence[Judged]) -> None:
    areas = auc_by_step([told.run for told in judged], [told.scores for told in judged])
    known = [(step, area) for step, area in enumerate(areas) if area is not None]
    axis.axhline(0.5, color=_GREY, linewidth=0.8, linestyle="--")
    axis.plot([step for step, _ in known], [area for _, area in known], "o-", color=_GREEN)
    axis.set_ylim(0, 1)
    axis.set_xlabel("step (runs that go on after it)")
    axis.set_ylabel("AUC of failure")


def _drivers(axis: Any, predictor: Predictor, judged: Sequence[Judged]) -> None:
    """Mean log-odds that each feature added at the step where a run was stopped."""
    added: defaultdict[str, float] = defaultdict(float)
    stopped = [told for told in judged if told.stop is not None]
    for told in stopped:
        at = (told.stop or 1) - 1
        rows = rows_of(predictor.feature_set, told.run.steps[: at + 1])
        for name, _, log_odds in predictor.why(at, rows[at]):
            added[name] += log_odds / len(stopped)
    strongest = sorted(added.items(), key=lambda entry: -abs(entry[1]))[:10][::-1]
    axis.barh([name for name, _ in strongest], [value for _, value in strongest], color=_BLUE)
    axis.tick_params(labelsize=8)
    axis.set_xlabel(f"log-odds of failure added at the stop, mean of {len(stopped)} runs")
