# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace …: record, import, show, validate, replay and compare sessions."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..errors import AgentCgroupError, InvalidValueError
from ..replay.compare import compare as run_comparison
from ..replay.compare import who_lost, write_report
from ..replay.jobs import SessionJob, load_jobs
from ..replay.options import (
    DeclaredIntent,
    Granularity,
    Policy,
    ReplayOptions,
    spread_priorities,
)
from ..replay.record import record_command
from ..replay.results import RunResult
from ..replay.table import comparison_table, session_table
from ..trace.convert import records_of
from ..trace.format import TraceReader, TraceWriter
from ..trace.load import load_session_trace
from ..trace.model import SessionTrace
from ..types.sessions import Mode
from ..units import format_bytes, parse_duration_s, parse_size_bytes

__all__ = ["app"]

app = typer.Typer(
    name="trace", help="Record, read and replay agent sessions.", no_args_is_help=True
)

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


@app.command("show")
def show_command(
    trace: Annotated[Path, typer.Argument(help="Trace file or AgentCgroup task directory.")],
    session: Annotated[str | None, typer.Option(help="Which, if it holds several.")] = None,
    as_authors: Annotated[bool, typer.Option(help="Read MB as 1024 x 1024 bytes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a session did: duration, memory, and its tool calls by peak."""
    loaded = load_session_trace(trace, session=session, as_authors=as_authors)
    if as_json:
        typer.echo(json.dumps(_summary(loaded), indent=1))
        return
    console = Console()
    console.print(
        f"{loaded.name}: {loaded.duration_s:.1f} s, {len(loaded.samples)} samples,"
        f" peak {format_bytes(loaded.peak_bytes)}, mean {format_bytes(loaded.mean_bytes)},"
        f" {len(loaded.calls)} tool calls",
        highlight=False, markup=False,
    )  # fmt: skip
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    table = Table()
    for name in ("begin", "seconds", "peak", "tool", "command"):
        table.add_column(name, justify="right" if name in ("begin", "seconds", "peak") else "left")
    for call in sorted(loaded.calls, key=lambda c: -c.peak_bytes)[:20]:
        table.add_row(
            f"{call.begin_s:.1f}", f"{call.duration_s:.1f}", format_bytes(call.peak_bytes),
            _plain(call.tool, 16), _plain(call.command or "", 60),
        )  # fmt: skip
    console.print(table)


@app.command("validate")
def validate_command(traces: Annotated[list[Path], typer.Argument(help="Trace files.")]) -> None:
    """Check every record; a damaged tail is reported, anything else is an error (78)."""
    for path in traces:
        if path.is_dir():
            trace = load_session_trace(path)
            typer.echo(f"{path}: task directory, {len(trace.samples)} samples")
            continue
        reader = TraceReader(path)
        kinds: dict[str, int] = {}
        for record in reader:
            kinds[record["kind"]] = kinds.get(record["kind"], 0) + 1
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        typer.echo(f"{path}: {counts or 'no records'}")
        for damage in reader.damage:
            typer.echo(f"{path}: {damage}", err=True)


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="AgentCgroup task directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New trace file; .gz compresses.")],
    as_authors: Annotated[bool, typer.Option(help="Read MB as 1024 x 1024 bytes.")] = False,
) -> None:
    """Write another recording in this project's trace format."""
    loaded = load_session_trace(source, as_authors=as_authors)
    if out.exists():
        raise InvalidValueError("--out", str(out), "choose a name that is not taken")
    with TraceWriter(out, {"imported_from": loaded.name}, epoch_ns=0) as writer:
        for record in records_of(loaded):
            writer.write(record)
    typer.echo(f"{out}: {len(loaded.samples)} samples, {len(loaded.calls)} tool calls")


@app.command("record")
def record_trace_command(
    command: Annotated[list[str], typer.Argument(help="The command to run and record.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New trace file; .gz compresses.")],
    session: Annotated[str, typer.Option(help="Name of the session in the trace.")] = "session",
    interval: Annotated[str, typer.Option(help="Time between samples.")] = "50ms",
    root: Root = "/sys/fs/cgroup",
) -> None:
    """Run a command in a cgroup of its own and record its memory and CPU."""
    if out.exists():
        raise InvalidValueError("--out", str(out), "choose a name that is not taken")
    with _interruptible():
        status = record_command(
            command, out, session=session, root=root,
            interval_ms=max(1, round(1000 * parse_duration_s(interval, "--interval"))),
        )  # fmt: skip
    raise typer.Exit(status)


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


def _summary(trace: SessionTrace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "source": trace.source,
        "duration_s": trace.duration_s,
        "samples": len(trace.samples),
        "peak_bytes": trace.peak_bytes,
        "mean_bytes": trace.mean_bytes,
        "notes": list(trace.notes),
        "calls": [
            {
                "begin_s": call.begin_s,
                "end_s": call.end_s,
                "tool": call.tool,
                "command": call.command,
                "peak_bytes": call.peak_bytes,
            }
            for call in trace.calls
        ],
    }


def _plain(text: str, width: int) -> str:
    """Foreign text for a table cell: printable, no markup, one line."""
    clean = "".join(c if c.isprintable() else " " for c in text).replace("[", "\\[")
    return clean if len(clean) <= width else clean[: width - 1] + "…"
