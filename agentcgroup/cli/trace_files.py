# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace import|show|validate|convert: reading and writing trace files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import InvalidValueError
from ..trace.convert import convert_trace
from ..trace.format import TraceReader, TraceWriter, read_trace
from ..trace.importers.detect import import_source, is_foreign
from ..trace.load import load_session_trace, session_from_trace
from ..trace.model import SessionTrace
from ..trace.sessions import SessionSummary, summarize_sessions
from ..units import format_bytes, parse_duration_s
from .output import plain, print_json, print_table

__all__ = ["add_to"]

AsAuthors = Annotated[bool, typer.Option(help="Read MB as 1024 x 1024 bytes.")]
SessionOption = Annotated[str | None, typer.Option(help="Which, if it holds several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NewFile = Annotated[Path, typer.Option("--out", "-o", help="New trace file; .gz compresses.")]


def add_to(app: typer.Typer) -> None:
    app.command("show")(show)
    app.command("validate")(validate)
    app.command("convert")(convert)
    app.command("import")(import_)


def show(
    trace: Annotated[Path, typer.Argument(help="Trace, task directory or stats log.")],
    session: SessionOption = None,
    as_authors: AsAuthors = False,
    as_json: AsJson = False,
) -> None:
    """What a session did: duration, memory, and its tool calls by peak."""
    if session is None and trace.is_file() and not is_foreign(trace):
        whole = read_trace(trace)
        sessions = summarize_sessions(whole.records)
        if len(sessions) != 1 or sessions[0].samples < 2:
            _show_sessions(trace, sessions, [str(damage) for damage in whole.damage], as_json)
            return
        loaded = session_from_trace(whole, trace)
    else:
        loaded = load_session_trace(trace, session=session, as_authors=as_authors)
    if as_json:
        print_json(_summary(loaded))
    else:
        _show_session(loaded)


def validate(traces: Annotated[list[Path], typer.Argument(help="Trace files.")]) -> None:
    """Check every record; a damaged tail is reported, anything else is an error (78)."""
    for path in traces:
        if path.is_dir() or (path.is_file() and is_foreign(path)):
            found = import_source(path)
            kinds = _kinds(found.records)
            typer.echo(f"{path}: {found.source_kind}, {kinds}")
            continue
        reader = TraceReader(path)
        kinds = _kinds(reader)
        typer.echo(f"{path}: {kinds or 'no records'}")
        for damage in reader.damage:
            typer.echo(f"{path}: {damage}", err=True)


def convert(
    trace: Annotated[Path, typer.Argument(help="Trace file.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="New file: .jsonl, .gz, .zst, or .csv (samples).")
    ],
    session: Annotated[str | None, typer.Option(help="Only the records of this one.")] = None,
) -> None:
    """Write a trace anew: compressed or plain, one session of several, samples as CSV."""
    _refuse_existing(out)
    written, damage = convert_trace(trace, out, session=session)
    typer.echo(f"{out}: {written} {'rows' if out.suffix == '.csv' else 'records'}")
    for problem in damage:
        typer.echo(f"{trace}: {problem}", err=True)


def import_(
    source: Annotated[
        Path, typer.Argument(help="Task directory, AgentStop runs, or a log of container stats.")
    ],
    out: NewFile,
    as_authors: AsAuthors = False,
    interval: Annotated[
        str, typer.Option(help="Between the rounds of a stats log without times.")
    ] = "1s",
    as_json: AsJson = False,
) -> None:
    """Write another recording in this project's format, and tell what was dropped or fixed."""
    _refuse_existing(out)
    found = import_source(
        source, as_authors=as_authors, interval_s=parse_duration_s(interval, "--interval")
    )
    with TraceWriter(out, found.host(), epoch_ns=found.epoch_ns) as writer:
        for record in found.records:
            writer.write(record)
    if as_json:
        print_json(
            {
                "source_kind": found.source_kind,
                "out": str(out),
                "sessions": len(found.sessions),
                "records": len(found.records),
                "changes": found.changes,
            }
        )
        return
    typer.echo(f"{out}: {found.source_kind}, {len(found.sessions)} session(s), ", nl=False)
    typer.echo(_kinds(found.records))
    for change in found.changes:
        typer.echo(f"note: {plain(change)}")


# --- helpers


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise InvalidValueError("--out", str(out), "choose a name that is not taken")


def _kinds(records: Any) -> str:
    counts: dict[str, int] = {}
    for record in records:
        counts[record["kind"]] = counts.get(record["kind"], 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _show_sessions(
    path: Path, sessions: list[SessionSummary], damage: list[str], as_json: bool
) -> None:
    if as_json:
        shown = [summary.as_json() for summary in sessions]
        typer.echo(json.dumps({"source": str(path), "notes": damage, "sessions": shown}, indent=1))
        return
    for note in damage:
        typer.echo(f"note: {note}")
    rows = [
        (
            summary.name, f"{summary.duration_s:.1f}",
            "-" if summary.peak_bytes is None else format_bytes(summary.peak_bytes),
            summary.samples, summary.calls, summary.steps, summary.decisions,
        )
        for summary in sessions
    ]  # fmt: skip
    print_table(("session", "seconds", "peak", "samples", "calls", "steps", "decisions"), rows)


def _show_session(loaded: SessionTrace) -> None:
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
            _cell(call.tool, 16), _cell(call.command or "", 60),
        )  # fmt: skip
    console.print(table)


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


def _cell(text: str, width: int) -> str:
    """Foreign text for a table cell: printable, no markup, one line."""
    clean = "".join(c if c.isprintable() else " " for c in text).replace("[", "\\[")
    return clean if len(clean) <= width else clean[: width - 1] + "…"
