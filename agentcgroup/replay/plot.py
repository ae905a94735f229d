# SPDX-License-Identifier: Apache-2.0
"""Memory over time as a picture: one panel a policy, the sessions stacked on each other.

The first run of each policy is drawn. Under `alone` the sessions ran one after another,
so there they are lines over each other. Needs matplotlib (extra `report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import NotSupportedError
from ..trace.results import RunResult, SessionResult
from ..types.intents import Priority
from ..units import MIB

__all__ = ["plot_timelines"]

_COLOURS = {
    Priority.HIGH: ["#c0392b", "#e67e22", "#922b21"],
    Priority.NORMAL: ["#5d6d7e", "#85929e", "#aeb6bf"],
    Priority.LOW: ["#2471a3", "#7fb3d5", "#48c9b0", "#1a5276"],
}
_PANEL_INCHES = (8.0, 2.1)
_TOTAL: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
_KILL: dict[str, Any] = {"marker": "X", "markersize": 9, "markeredgecolor": "black"}


def _pyplot() -> Any:
    try:
        import matplotlib  # noqa: PLC0415

        matplotlib.use("Agg")
        from matplotlib import pyplot  # noqa: PLC0415
    except ImportError:
        raise NotSupportedError(
            "cannot draw: matplotlib is not installed; pip install 'agentcgroup[report]',"
            " or leave --plot out"
        ) from None
    return pyplot


def plot_timelines(path: Path, results: Sequence[RunResult], total_bytes: int) -> None:
    """Write a PNG; NotSupportedError without matplotlib."""
    pyplot = _pyplot()
    first = {result.policy: result for result in reversed(results)}
    order = list(dict.fromkeys(result.policy for result in sorted(results, key=_rank)))
    figure, axes = pyplot.subplots(
        len(order),
        figsize=(_PANEL_INCHES[0], 0.9 + _PANEL_INCHES[1] * len(order)),
        sharex=True,
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    sessions = first[order[0]].sessions
    colours = _colours(sessions)
    for axis, policy in zip(axes[:, 0], order, strict=True):
        _panel(axis, first[policy], total_bytes, colours)
    _legend(figure, axes[0, 0], sessions, colours)
    end_s = max(s.timeline[-1][0] for r in first.values() for s in r.sessions if s.timeline)
    axes[-1, 0].set_xlim(0, end_s)
    axes[-1, 0].set_xlabel("seconds from the common start", fontsize=9)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _rank(result: RunResult) -> int:
    known = ["none", "static", "static-peak", "static-mean", "agentcgroup", "alone"]
    return known.index(result.policy) if result.policy in known else len(known)


def _colours(sessions: Sequence[SessionResult]) -> dict[str, str]:
    used: dict[Priority, int] = {}
    chosen: dict[str, str] = {}
    for session in sessions:
        palette = _COLOURS[session.priority]
        number = used.get(session.priority, 0)
        chosen[session.name] = palette[number % len(palette)]
        used[session.priority] = number + 1
    return chosen


def _legend(
    figure: Any, axis: Any, sessions: Sequence[SessionResult], colours: dict[str, str]
) -> None:
    """The same for all panels, whatever happens to be drawn in the first."""
    patches = [
        axis.fill_between([], [], color=colours[s.name], alpha=0.75, linewidth=0, label=_label(s))
        for s in sessions
    ]
    (total,) = axis.plot([], [], **_TOTAL, label="total memory")
    (kill,) = axis.plot([], [], **_KILL, color="white", linestyle="none", label="kill")
    figure.legend(
        handles=[*patches, total, kill], loc="outside upper left", ncols=3,
        frameon=False, fontsize=8,
    )  # fmt: skip


def _panel(axis: Any, run: RunResult, total_bytes: int, colours: dict[str, str]) -> None:
    total_mib = total_bytes / MIB
    tops = _lines(axis, run, colours) if run.policy == "alone" else _stack(axis, run, colours)
    axis.axhline(total_mib, **_TOTAL)
    for session in run.sessions:
        for at_s in session.kill_times_s:
            height = _before(tops.get(session.name, {}), at_s)
            axis.plot(at_s, height, color=colours[session.name], zorder=5, **_KILL)
    lost = [_short(s.name) for s in run.sessions if not s.survived]
    axis.set_title(
        f"{run.policy}: {run.survivors} of {len(run.sessions)} survive, {run.makespan_s:.1f} s"
        + (f" (lost: {', '.join(lost)})" if lost else ""),
        fontsize=9, loc="left", color="#922b21" if lost else "#1e8449",
    )  # fmt: skip
    axis.set_ylabel("MiB", fontsize=9)
    axis.set_ylim(0, total_mib * 1.15)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _before(tops: dict[float, float], at_s: float) -> float:
    """The height at the sample before: at `at_s` the memory may be gone already."""
    earlier = [when for when in tops if when < at_s]
    return tops[max(earlier)] if earlier else 0.0


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:10] + "…" + name[-11:]


def _label(session: SessionResult) -> str:
    return f"{_short(session.name)} ({session.priority.value})"


def _lines(axis: Any, run: RunResult, colours: dict[str, str]) -> dict[str, dict[float, float]]:
    tops: dict[str, dict[float, float]] = {}
    for session in run.sessions:
        times = [at_s for at_s, _ in session.timeline]
        sizes = [size / MIB for _, size in session.timeline]
        tops[session.name] = dict(zip(times, sizes, strict=True))
        axis.plot(times, sizes, color=colours[session.name], linewidth=1.4)
    return tops


def _stack(axis: Any, run: RunResult, colours: dict[str, str]) -> dict[str, dict[float, float]]:
    """Draw from the bottom up; the height of each session's upper edge at each time."""
    times = sorted({at_s for session in run.sessions for at_s, _ in session.timeline})
    below = [0.0] * len(times)
    tops: dict[str, dict[float, float]] = {}
    for session in run.sessions:
        sizes = dict(session.timeline)
        above = [low + sizes.get(at_s, 0) / MIB for low, at_s in zip(below, times, strict=True)]
        axis.fill_between(
            times, below, above, color=colours[session.name], alpha=0.75, linewidth=0,
        )  # fmt: skip
        tops[session.name] = dict(zip(times, above, strict=True))
        below = above
    return tops
