# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace …: replay, compare, record; the other verbs are beside (trace_*.py)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import AgentCgroupError, InvalidValueError
from ..replay.compare import compare as run_comparison
from ..replay.compare import who_lost
from ..replay.options import (
    DeclaredIntent,
    Granularity,
    Policy,
    ReplayOptions,
    spread_priorities,
)
from ..replay.record import record_command, record_session
from ..replay.table import comparison_table, session_table
from ..trace.jobs import SessionJob, load_jobs
from ..trace.results import RunResult
from ..trace.run_files import write_report
from ..types.sessions import Mode
from ..units import parse_duration_s, parse_size_bytes
from . import trace_capacity, trace_files, trace_report, trace_simulate, trace_study

__all__ = ["app"]

app = typer.Typer(
    name="trace", help="Record, read and replay agent sessions.", no_args_is_help=True
)

trace_files.add_to(app)
trace_study.add_to(app)
trace_simulate.add_to(app)
trace_capacity.add_to(app)
trace_report.add_to(app)

Traces = Annotated[list[Path], typer.Argument(help="Trace files or AgentCgroup task directories.")]
TotalMemory = Annotated[str, typer.Option(help="Memory for all sessions, such as 1100M.")]
Speed = Annotated[float, typer.Option(help="Times faster than recorded.")]
BaseMemory = Annotated[str, typer.Option(help="Memory each session holds besides its trace.")]
PriorityList = Annotated[str, typer.Option("--priority", help="One a trace: high,low,low.")]
GranularityOption = Annotated[Granularity, typer.Option(help="One process a session or a call.")]
IntentOption = Annotated[DeclaredIntent, typer.Option(help="What the calls declare.")]
Layers = Annotated[str, typer.Option(help="Layers of the private daemon, such as files,events.")]
ModeOption = Annotated[Mode, typer.Option(help="Mode of the private daemon.")]
Seed = Annotated[int, typer.Option(help="For noise, order and intervals.")]
Socket = Annotated[str | None, typer.Option(help="Use the daemon here, not a private one.")]
Root = Annotated[str, typer.Option(help="cgroup below which a private tree is made.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
PlotOut = Annotated[Path | None, typer.Option("--plot", help="Draw the memory timelines (PNG).")]


@app.command("replay")
def replay_command(
    traces: Traces,
    total_memory: TotalMemory,
    policy: Annotated[Policy, typer.Option(help="Who divides the memory.")] = Policy.AGENTCGROUP,
    granularity: GranularityOption = Granularity.SESSION,
    speed: Speed = 50.0,
    base_memory: BaseMemory = "100M",
    priority: PriorityList = "normal",
    intent: IntentOption = DeclaredIntent.NONE,
    layers: Layers = "auto",
    mode: ModeOption = Mode.ENFORCE,
    seed: Seed = 0,
    socket: Socket = None,
    root: Root = "/sys/fs/cgroup",
    json_out: JsonOut = None,
    plot: PlotOut = None,
) -> None:
    """Play recorded sessions together, once, on limited memory."""
    options = ReplayOptions(
        total_memory_bytes=parse_size_bytes(total_memory, "--total-memory"), speed=speed,
        base_memory_bytes=parse_size_bytes(base_memory, "--base-memory"),
        granularity=granularity, intent=intent, layers=layers, mode=mode, seed=seed,
        socket=socket, root=root,
    )  # fmt: skip
    jobs = _load(traces, priority, options)
    results = _measure(jobs, [policy], 1, options)
    Console().print(session_table(results[0]))
    _write(results, options, json_out, plot)


@app.command("compare")
def compare_command(
    traces: Traces,
    total_memory: TotalMemory,
    policies: Annotated[str, typer.Option(help="Comma-separated.")] = (
        "none,static,agentcgroup,alone"
    ),
    runs: Annotated[int, typer.Option(min=1, help="Rounds; every round plays each policy.")] = 1,
    granularity: GranularityOption = Granularity.SESSION,
    speed: Speed = 50.0,
    base_memory: BaseMemory = "100M",
    priority: PriorityList = "normal",
    intent: IntentOption = DeclaredIntent.NONE,
    layers: Layers = "auto",
    mode: ModeOption = Mode.ENFORCE,
    seed: Seed = 0,
    socket: Socket = None,
    root: Root = "/sys/fs/cgroup",
    json_out: JsonOut = None,
    plot: PlotOut = None,
    expect_loss_under: Annotated[
        Policy | None, typer.Option(help="Fail if this policy loses no session.")
    ] = None,
) -> None:
    """Play the same sessions under several policies, interleaved, and set them side by side."""
    options = ReplayOptions(
        total_memory_bytes=parse_size_bytes(total_memory, "--total-memory"), speed=speed,
        base_memory_bytes=parse_size_bytes(base_memory, "--base-memory"),
        granularity=granularity, intent=intent, layers=layers, mode=mode, seed=seed,
        socket=socket, root=root,
    )  # fmt: skip
    chosen = _policies(policies)
    if expect_loss_under is not None and expect_loss_under not in chosen:
        raise InvalidValueError(
            "--expect-loss-under", expect_loss_under.value, "name one of --policies"
        )
    jobs = _load(traces, priority, options)
    results = _measure(jobs, chosen, runs, options)
    Console().print(comparison_table(results, options.total_memory_bytes))
    _write(results, options, json_out, plot)
    if expect_loss_under is not None and not who_lost(results, expect_loss_under):
        raise AgentCgroupError(
            f"policy {expect_loss_under.value} lost no session, so this comparison shows nothing:"
            " give less --total-memory or traces with higher peaks"
        )


@app.command("record")
def record_trace_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="New trace file; .gz compresses.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="The command to run and record.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Without a command: the daemon's session to follow; with: its name."),
    ] = None,
    interval: Annotated[str, typer.Option(help="Between samples, 10ms to 1s.")] = "50ms",
    root: Root = "/sys/fs/cgroup",
    socket: Socket = None,
) -> None:
    """Record a command in a cgroup of its own, or a session of the daemon until it ends."""
    if out.exists():
        raise InvalidValueError("--out", str(out), "choose a name that is not taken")
    interval_s = parse_duration_s(interval, "--interval")
    if not 0.01 <= interval_s <= 1:
        raise InvalidValueError("--interval", interval, "write 10ms to 1s")
    interval_ms = round(1000 * interval_s)
    if command:
        with _interruptible():
            status = record_command(
                command, out, session=session or "session", root=root, interval_ms=interval_ms
            )
        raise typer.Exit(status)
    if session is None:
        raise InvalidValueError("CMD", "", "give a command, or --session with a live session")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    calls = record_session(session, out, interval_ms=interval_ms, socket=socket, stop=stop)
    typer.echo(f"{out}: session {session}, {calls} tool calls")


# --- helpers


def _policies(text: str) -> list[Policy]:
    try:
        chosen = [Policy(part.strip()) for part in text.split(",")]
    except ValueError:
        known = ", ".join(policy.value for policy in Policy)
        raise InvalidValueError("--policies", text, f"separate by commas; known: {known}") from None
    if len(set(chosen)) != len(chosen):
        raise InvalidValueError("--policies", text, "name each policy once")
    return chosen


def _load(traces: Sequence[Path], priority: str, options: ReplayOptions) -> list[SessionJob]:
    return load_jobs(traces, spread_priorities(priority, len(traces)), options)


def _measure(
    jobs: list[SessionJob], policies: list[Policy], runs: int, options: ReplayOptions
) -> list[RunResult]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with _interruptible(), Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=runs * len(policies))
        done: set[tuple[int, Policy]] = set()

        def told(run: int, policy: Policy, share: float) -> None:
            bar.update(
                task,
                completed=len(done - {(run, policy)}) + share,
                description=f"run {run}/{runs} {policy.value}",
            )
            if share >= 1:
                done.add((run, policy))

        return run_comparison(jobs, policies, runs, options, told)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A polite kill cleans up as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(
    results: list[RunResult], options: ReplayOptions, json_out: Path | None, plot: Path | None
) -> None:
    if json_out is not None:
        write_report(json_out, results, options.seed)
    if plot is not None:
        from ..replay.plot import plot_timelines  # noqa: PLC0415  (matplotlib takes a second)

        plot_timelines(plot, results, options.total_memory_bytes)
