# SPDX-License-Identifier: Apache-2.0
"""The one table at the end of a comparison: a row a policy, means over its runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table

from ..trace.results import RunResult, SessionResult
from ..units import format_bytes

__all__ = ["comparison_table", "session_table"]


def comparison_table(results: Sequence[RunResult], total_bytes: int) -> Table:
    runs = max((r.run for r in results), default=0)
    table = Table(
        title=f"{format_bytes(total_bytes)} for all sessions, mean of {runs} run(s)",
        title_justify="left",
        padding=(0, 0, 0, 1),
    )
    table.add_column("policy", no_wrap=True)
    for name in ("survived", "kills", "makespan", "HIGH p95", "HIGH p50", "waited", "throttled"):
        table.add_column(name, justify="right", no_wrap=" " not in name)
    for policy in dict.fromkeys(r.policy for r in results):
        table.add_row(policy, *_figures([r for r in results if r.policy == policy]))
    return table


def _figures(runs: Sequence[RunResult]) -> list[str]:
    sessions = [session for run in runs for session in run.sessions]
    best = min(s.priority.rank for s in sessions)
    high = [s for s in sessions if s.priority.rank == best]
    lost = [s for s in high if not s.survived]
    alive = sum(s.survived for s in sessions)
    kills = fmean(run.kills for run in runs)
    return [
        f"[{'green' if alive == len(sessions) else 'red'}]{alive}/{len(sessions)}[/]",
        f"{kills:.3g}",
        f"{fmean(run.makespan_s for run in runs):.1f} s",
        "lost" if lost else _ms([s.p95_ms for s in high]),
        "lost" if lost else _ms([_p50(s) for s in high]),
        _ms([s.waited_ms for s in sessions]),
        _ms([s.throttled_ms for s in sessions]),
    ]


def _p50(session: SessionResult) -> float | None:
    ranked = sorted(session.latencies_ms)
    return ranked[len(ranked) // 2] if ranked else None


def _ms(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "?"
    mean = fmean(known)
    return f"{mean / 1000:.1f} s" if mean >= 10_000 else f"{mean:.0f} ms"


def session_table(result: RunResult) -> Table:
    table = Table(title=f"policy {result.policy}", title_justify="left", padding=(0, 0, 0, 1))
    table.add_column("session", overflow="ellipsis", no_wrap=True, max_width=18)
    table.add_column("priority", no_wrap=True)
    for name in ("survived", "done", "peak", "kills", "p95", "waited"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in result.sessions:
        table.add_row(
            s.name,
            s.priority.value,
            "[green]yes[/]" if s.survived else "[red]no[/]",
            "-" if s.completion_s is None else f"{s.completion_s:.1f} s",
            f"{100 * s.peak_memory_bytes / s.trace_peak_bytes:.0f} %",
            str((s.oom_kills or 0) + s.policy_kills),
            _ms([s.p95_ms]),
            _ms([s.waited_ms]),
        )
    return table
