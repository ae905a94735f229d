# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace simulate: replay's question, answered by the host model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import InvalidValueError
from ..replay.options import spread_priorities
from ..replay.table import comparison_table, session_table
from ..simulate.host import HostModel
from ..simulate.run import SimulatedPolicy, SimulationOptions, simulate_policy
from ..trace.jobs import DeclaredIntent, Granularity, load_jobs
from ..trace.run_files import write_report
from ..types.sessions import Mode
from ..units import parse_cores, parse_size_bytes

__all__ = ["add_to"]

_LAYERS = frozenset({"auto", "files", "events", "gate", "memcg_ops", "sched_ext"})
_FILES_DELAY_NS = 10_000_000


def add_to(app: typer.Typer) -> None:
    app.command("simulate")(simulate)


def simulate(
    traces: Annotated[list[Path], typer.Argument(help="Traces, or what import knows.")],
    total_memory: Annotated[str, typer.Option(help="Memory for all sessions, such as 1100M.")],
    policy: Annotated[
        str, typer.Option("--policy", "--policies", help="One, or several separated by commas.")
    ] = "agentcgroup",
    granularity: Annotated[
        Granularity, typer.Option(help="One process a session or a call.")
    ] = Granularity.SESSION,
    speed: Annotated[float, typer.Option(help="Times faster than recorded.")] = 50.0,
    base_memory: Annotated[
        str, typer.Option(help="Memory each session holds besides its trace.")
    ] = "100M",
    priority: Annotated[str, typer.Option(help="One a trace: high,low,low.")] = "normal",
    intent: Annotated[
        DeclaredIntent, typer.Option(help="What the calls declare.")
    ] = DeclaredIntent.NONE,
    layers: Annotated[
        str, typer.Option(help="The daemon's memory layers; files alone hears later.")
    ] = "auto",
    runs: Annotated[
        int, typer.Option(min=1, help="Rounds, each with the next seed (noisy intents differ).")
    ] = 1,
    mode: Annotated[Mode, typer.Option(help="Mode of the daemon's policy.")] = Mode.ENFORCE,
    growth: Annotated[str, typer.Option(help="Memory that one process touches a second.")] = "1G",
    cores: Annotated[
        str | None, typer.Option(help="CPUs for all sessions; without: CPU is never short.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For noise in what is declared.")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the memory timelines (PNG).")] = None,
) -> None:
    """Play recorded sessions together in the host model, under one policy or several."""
    host = HostModel(
        growth_bytes_per_s=max(1, parse_size_bytes(growth, "--growth")),
        event_delay_ns=_event_delay_ns(layers),
        cores=None if cores is None else parse_cores(cores, "--cores"),
        kills_at_budget=True,
    )
    options = SimulationOptions(
        total_memory_bytes=parse_size_bytes(total_memory, "--total-memory"), speed=speed,
        base_memory_bytes=parse_size_bytes(base_memory, "--base-memory"),
        granularity=granularity, intent=intent, mode=mode, seed=seed, host=host,
    )  # fmt: skip
    chosen = _policies(policy)
    priorities = spread_priorities(priority, len(traces))
    results = []
    for number in range(1, runs + 1):
        drawn = replace(options, seed=seed + number - 1)
        jobs = load_jobs(traces, priorities, drawn)
        results += [simulate_policy(each, jobs, drawn, run=number) for each in chosen]
    if len(results) == 1:
        Console().print(session_table(results[0]))
    else:
        Console().print(comparison_table(results, options.total_memory_bytes))
    if json_out is not None:
        write_report(json_out, results, seed)
    if plot is not None:
        from ..replay.plot import plot_timelines  # noqa: PLC0415  (matplotlib takes a second)

        plot_timelines(plot, results, options.total_memory_bytes)


def _event_delay_ns(layers: str) -> int:
    """Until the daemon hears of a call at its line: BPF events, or files that notify."""
    named = {name.strip() for name in layers.split(",")}
    unknown = named - _LAYERS
    if unknown:
        raise InvalidValueError("--layers", layers, f"known: {', '.join(sorted(_LAYERS))}")
    return _FILES_DELAY_NS if named == {"files"} else HostModel().event_delay_ns


def _policies(text: str) -> list[SimulatedPolicy]:
    try:
        chosen = [SimulatedPolicy(part.strip()) for part in text.split(",")]
    except ValueError:
        known = ", ".join(policy.value for policy in SimulatedPolicy)
        raise InvalidValueError("--policy", text, f"separate by commas; known: {known}") from None
    if len(set(chosen)) != len(chosen):
        raise InvalidValueError("--policy", text, "name each policy once")
    return chosen
