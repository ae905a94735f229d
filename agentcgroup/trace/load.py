# SPDX-License-Identifier: Apache-2.0
"""One door for every kind of recorded session: a trace file, or what an importer knows.

Memory of an own trace is memory.current less inactive_file: what the kernel could not
drop without harm, so that page cache of files read once is not replayed as need.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import FormatError
from ..units import NS_PER_S
from .format import Trace, read_trace
from .importers.agentcgroup import read_task_directory
from .importers.detect import import_source, is_foreign, is_task_file
from .model import CallSpan, SessionTrace, split_calls
from .records import Record

__all__ = ["load_session_trace", "session_from_trace"]

# 50 ms samples flicker by some pages; steps below this are not told apart in a replay.
OWN_TRACE_STEP_BYTES = 1 << 20


def load_session_trace(
    path: str | Path, *, session: str | None = None, as_authors: bool = False
) -> SessionTrace:
    """The session in `path`, which one if there are several; FormatError otherwise."""
    where = Path(path)
    if where.is_dir():
        return read_task_directory(where, as_authors=as_authors)
    if not where.exists():
        raise FormatError("trace", str(where), "there is no such file or directory")
    if is_task_file(where):
        return read_task_directory(where.parent, as_authors=as_authors)
    if is_foreign(where):
        found = import_source(where)
        trace = Trace({"epoch_ns": found.epoch_ns}, found.records)
        loaded = session_from_trace(trace, where, session)
        return replace(loaded, notes=(*found.changes, *loaded.notes))
    return session_from_trace(read_trace(where), where, session)


def session_from_trace(trace: Trace, source: Path, session: str | None = None) -> SessionTrace:
    """Picks the records of one session out of an own trace."""
    names = list(dict.fromkeys(r["session"] for r in trace.records if "session" in r))
    with_samples = {r["session"] for r in trace.records if r["kind"] == "sample"}
    if session is None:
        usable = [name for name in names if name in with_samples]
        if len(usable) > 1:
            raise FormatError(
                "session", ", ".join(usable), f"{source} holds several sessions: name one of them"
            )
        session = usable[0] if usable else (names[0] if names else "")
    elif session not in names:
        raise FormatError("session", session, f"{source} holds: {', '.join(names) or 'none'}")
    mine = [r for r in trace.records if r.get("session") == session]
    points = [
        (r["t_ns"], size)
        for r in mine
        if r["kind"] == "sample" and "call" not in r and (size := _working_set(r)) is not None
    ]
    if len(points) < 2:
        raise FormatError(
            f"{source}: samples" + (f" of session {session}" if session else ""),
            len(points),
            "a session needs two sample records with memory_current_bytes and without a call",
        )
    points.sort()
    begin_ns = points[0][0]
    samples = tuple(((t_ns - begin_ns) / NS_PER_S, size) for t_ns, size in points)
    notes = [str(damage) for damage in trace.damage]
    calls, agent_samples = split_calls(samples, _spans(mine, begin_ns, points[-1][0], notes))
    return SessionTrace(
        name=session,
        samples=samples,
        calls=calls,
        agent_samples=agent_samples,
        cpu_samples=tuple(
            ((r["t_ns"] - begin_ns) / NS_PER_S, r["cpu_usage_us"] / 1e6)
            for r in mine
            if r["kind"] == "sample" and "call" not in r and "cpu_usage_us" in r
        ),
        source=str(source),
        notes=tuple(notes),
        epoch_s=(trace.header["epoch_ns"] + begin_ns) / NS_PER_S,
        step_bytes=next(
            (r["step_bytes"] for r in mine if r["kind"] == "session" and "step_bytes" in r),
            OWN_TRACE_STEP_BYTES,
        ),
    )


def _working_set(record: Record) -> int | None:
    current = record.get("memory_current_bytes")
    if current is None:
        return None
    return max(0, int(current) - int(record.get("inactive_file_bytes", 0)))


def _spans(records: list[Record], begin_ns: int, last_ns: int, notes: list[str]) -> list[CallSpan]:
    open_calls: dict[str, Record] = {}
    spans: list[CallSpan] = []
    for record in records:
        if record["kind"] == "call_begin":
            open_calls[record["call"]] = record
        elif record["kind"] == "call_end":
            begun = open_calls.pop(record["call"], None)
            if begun is None:
                notes.append(f"call {record['call']} ends without a beginning: left out")
            else:
                spans.append(_span(begun, record["t_ns"], begin_ns))
    for begun in open_calls.values():
        notes.append(f"call {begun['call']} has no end: it lasts until the last sample")
        spans.append(_span(begun, max(last_ns, begun["t_ns"]), begin_ns))
    return spans


def _span(begun: Record, end_ns: int, begin_ns: int) -> CallSpan:
    begin_s = max(0.0, (begun["t_ns"] - begin_ns) / NS_PER_S)
    end_s = max(begin_s, (end_ns - begin_ns) / NS_PER_S)
    return CallSpan(begin_s, end_s, begun.get("tool", "call"), begun.get("command"))
