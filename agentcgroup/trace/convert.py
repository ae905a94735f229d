# SPDX-License-Identifier: Apache-2.0
"""A session, wherever it was read from, as records of the project's own format. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..units import NS_PER_S
from .model import SessionTrace
from .records import Record

__all__ = ["records_of"]


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
