# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace capacity: how many agents fit a host, policy by policy."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import AgentCgroupError, InvalidValueError
from ..simulate.run import SimulatedPolicy, SimulationOptions
from ..trace.importers.agentcgroup import is_task_directory
from ..trace.jobs import Granularity, SessionJob, make_jobs
from ..trace.load import load_session_trace
from ..trace.model import SessionTrace
from ..types.intents import Priority
from ..units import MIB, parse_cores, parse_size_bytes
from .output import print_table

if TYPE_CHECKING:
    from ..simulate.capacity import CapacityHost, Cell, Target

__all__ = ["add_to"]

# Moves below this are left out: nobody decides on them, and they take most of the time.
_STEP_BYTES = 4 * MIB
_SHORTEST_S = 60.0
_MEASURED = (
    SimulatedPolicy.CLAIRVOYANT, SimulatedPolicy.STATIC_PEAK, SimulatedPolicy.AGENTCGROUP,
    SimulatedPolicy.NONE,
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    app.command("capacity")(capacity)


def capacity(
    traces: Annotated[list[Path], typer.Argument(help="Traces, tasks, or directories of either.")],
    memory: Annotated[str, typer.Option(help="Memory of the host; several: 64GB,128GB.")],
    cores: Annotated[
        str | None, typer.Option(help="CPUs of the host; several: 16,24. Without: memory alone.")
    ] = None,
    policies: Annotated[str, typer.Option(help="Comma-separated.")] = (
        "clairvoyant,static-peak,agentcgroup"
    ),
    max_slowdown: Annotated[float, typer.Option(help="Mean over sessions.")] = 1.05,
    max_kills: Annotated[int, typer.Option(min=0, help="In one draw.")] = 0,
    draws: Annotated[int, typer.Option(min=1, help="For sums of traces.")] = 200,
    runs: Annotated[int, typer.Option(min=1, help="Of these, how many are simulated.")] = 3,
    seed: Annotated[int, typer.Option(help="For what is drawn.")] = 42,
    processes: Annotated[
        int | None, typer.Option(min=1, help="At a time; default: one a CPU.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write every number that was tried.")
    ] = None,
) -> None:
    """How many agents fit, at a target for kills and slowdown, by each policy."""
    from ..simulate.capacity import CapacityHost, Target  # noqa: PLC0415  (numpy)

    if max_slowdown < 1:
        raise InvalidValueError("--max-slowdown", max_slowdown, "write 1 or more, such as 1.05")
    sizes = [parse_size_bytes(part.strip(), "--memory") for part in memory.split(",")]
    counts = (
        [None]
        if cores is None
        else [parse_cores(part.strip(), "--cores") for part in cores.split(",")]
    )
    hosts = [CapacityHost(size, count) for size in sizes for count in counts]
    target = Target(max_slowdown, max_kills, draws=draws, runs=min(runs, draws), seed=seed)
    jobs = _jobs(traces)
    cells = _all_cells(_policies(policies), jobs, hosts, target, processes)
    _print(cells)
    if json_out is not None:
        report = {
            "schema": 1, "traces": len(jobs), "target": {
                "max_slowdown": max_slowdown, "max_kills": max_kills, "share": target.share,
                "draws": draws, "runs": target.runs, "seed": seed,
            },
            "cells": [cell.as_json() for cell in cells],
        }  # fmt: skip
        json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _policies(text: str) -> list[SimulatedPolicy]:
    known = ", ".join(policy.value for policy in _MEASURED)
    try:
        chosen = [SimulatedPolicy(part.strip()) for part in text.split(",")]
    except ValueError:
        chosen = []
    if not chosen or any(policy not in _MEASURED for policy in chosen):
        raise InvalidValueError("--policies", text, f"separate by commas; known: {known}")
    return chosen


def _jobs(paths: Sequence[Path]) -> list[SessionJob]:
    found = [trace for path in paths for trace in _traces(path)]
    if not found:
        raise InvalidValueError(
            "TRACES", ", ".join(map(str, paths)), f"none of {_SHORTEST_S:.0f} s or more is in there"
        )
    options = SimulationOptions(
        total_memory_bytes=1 << 50, base_memory_bytes=0, granularity=Granularity.TOOL
    )
    return make_jobs(found, [Priority.NORMAL] * len(found), options)


def _traces(path: Path) -> list[SessionTrace]:
    """Of a directory those that can be played, and are no run that never took place."""
    if path.is_dir() and not is_task_directory(path):
        found = []
        for child in sorted(path.iterdir()):
            if child.is_dir() or child.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
                try:
                    found += [t for t in _traces(child) if t.duration_s >= _SHORTEST_S]
                except AgentCgroupError as problem:
                    typer.echo(f"left out {child}: {problem}", err=True)
        return found
    trace = load_session_trace(path)
    return [replace(trace, step_bytes=max(_STEP_BYTES, trace.step_bytes))]


def _all_cells(
    policies: Sequence[SimulatedPolicy], jobs: Sequence[SessionJob],
    hosts: Sequence[CapacityHost], target: Target, processes: int | None,
) -> list[Cell]:  # fmt: skip
    """Every host under every policy, side by side in processes where there are CPUs for it."""
    from ..simulate.capacity import capacity as find  # noqa: PLC0415

    wanted = [(policy, host) for host in hosts for policy in policies]
    workers = min(len(wanted), processes or len(os.sched_getaffinity(0)))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("capacity", total=len(wanted))
        if workers == 1:
            cells = []
            for policy, host in wanted:
                cells.append(find(policy, jobs, host, target))
                bar.advance(task)
            return cells
        with ProcessPoolExecutor(workers) as pool:
            futures: list[Future[Any]] = [
                pool.submit(find, policy, jobs, host, target) for policy, host in wanted
            ]
            for future in futures:
                future.add_done_callback(lambda _: bar.advance(task))
            return [future.result() for future in futures]


def _print(cells: Sequence[Cell]) -> None:
    peaks = {
        (cell.memory_bytes, cell.cores): cell.agents
        for cell in cells
        if cell.policy == SimulatedPolicy.STATIC_PEAK.value
    }
    rows = []
    for cell in cells:
        fixed, at = peaks.get((cell.memory_bytes, cell.cores)), cell.at
        rows.append(
            (
                f"{cell.memory_bytes / 1e9:.4g} GB",
                "-" if cell.cores is None else f"{cell.cores:g}",
                cell.policy, cell.agents, f"{cell.agents / fixed:.2f}" if fixed else "-",
                "-" if at is None else f"{at.ok_draws}/{at.draws}",
                "-" if at is None or at.slowdown_mean is None else f"{at.slowdown_mean:.3f}",
                "-" if at is None or at.kills is None else f"{at.kills:.3g}",
            )
        )  # fmt: skip
    names = ("memory", "cores", "policy", "agents", "x static-peak", "draws", "slowdown", "kills")
    print_table(names, rows)
