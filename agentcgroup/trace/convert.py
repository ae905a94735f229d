# SPDX-License-Identifier: Apache-2.0
"""Sessions as records of the project's own format, and traces in another dress."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ..errors import FormatError
from ..units import NS_PER_S
from .format import TraceReader, TraceWriter
from .model import SessionTrace
from .records import Record

__all__ = ["CSV_COLUMNS", "convert_trace", "records_of"]

CSV_COLUMNS = (
    "t_ns", "session", "call", "memory_current_bytes", "anon_bytes", "file_bytes",
    "inactive_file_bytes", "memory_peak_bytes", "swap_current_bytes", "cpu_usage_us", "pids_count",
    "io_read_bytes", "io_write_bytes", "memory_some_us", "memory_full_us",
)  # fmt: skip


def records_of(trace: SessionTrace, session: str | None = None) -> Iterator[Record]:
    """Records in order of time; `t_ns` 0 is the first sample."""
    name = session or trace.name
    yield {
        "t_ns": 0, "kind": "session", "session": name, "source": trace.source,
        "step_bytes": trace.step_bytes,
    }  # fmt: skip
    cpu = dict(trace.cpu_samples)
    rows: list[tuple[float, int, Record]] = []
    for at_s, size in trace.samples:
        sample: Record = {"kind": "sample", "session": name, "memory_current_bytes": size}
        if at_s in cpu:
            sample["cpu_usage_us"] = round(cpu[at_s] * 1e6)
        rows.append((at_s, 1, sample))
    for number, call in enumerate(trace.calls, 1):
        about: Record = {"session": name, "call": f"c{number}"}
        begin: Record = {"kind": "call_begin", **about, "tool": call.tool}
        if call.command:
            begin["command"] = call.command
        rows.append((call.begin_s, 0, begin))
        rows.append((call.end_s, 2, {"kind": "call_end", **about}))
    rows.sort(key=lambda row: row[:2])
    for at_s, _, record in rows:
        yield {"t_ns": round(at_s * NS_PER_S), **record}
    yield {"t_ns": round(trace.duration_s * NS_PER_S), "kind": "end", "session": name}


def convert_trace(source: Path, out: Path, *, session: str | None = None) -> tuple[int, list[str]]:
    """Write `source` anew as `out` says by its suffix; memory does not grow with the trace.

    .csv has the samples alone. Returns what was written and the damage that was left out.
    FormatError if a session is named that is not in there.
    """
    reader = TraceReader(source)
    names: set[str] = set()
    records = _chosen(reader, session, names)
    if out.suffix == ".csv":
        written = _write_csv(records, out)
    else:
        written = _write_trace(records, out, reader.header)
    damage = [str(problem) for problem in reader.damage]
    if session is not None and session not in names:
        out.unlink()
        raise FormatError(
            "--session", session, f"{source} holds: {', '.join(sorted(names)) or 'none'}"
        )
    return written, damage


def _chosen(reader: TraceReader, session: str | None, names: set[str]) -> Iterator[Record]:
    """Records of the session and those that belong to none; fills `names`."""
    for record in reader:
        name = record.get("session")
        if name is not None and len(names) < 100_000:
            names.add(name)
        if session is None or name is None or name == session:
            yield record


def _write_trace(records: Iterator[Record], out: Path, header: Record) -> int:
    with TraceWriter(out, header.get("host"), epoch_ns=header["epoch_ns"]) as writer:
        for record in records:
            writer.write(record)
        return writer.written_count


def _write_csv(records: Iterator[Record], out: Path) -> int:
    """Numbers as they are, an empty cell where a sample does not tell."""
    rows = 0
    with out.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, CSV_COLUMNS, extrasaction="ignore", restval="")
        table.writeheader()
        for record in records:
            if record["kind"] == "sample":
                table.writerow(record)
                rows += 1
    return rows
