# SPDX-License-Identifier: Apache-2.0
"""Whatever is written is read back; whatever the bytes, the reader raises FormatError or reads."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.errors import FormatError
from agentcgroup.trace.format import TraceWriter, make_header, read_trace
from agentcgroup.trace.load import session_from_trace
from agentcgroup.trace.records import KINDS

_whole = st.integers(0, (1 << 63) - 1)
_name = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@st.composite
def _records(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    record: dict[str, Any] = {"t_ns": draw(_whole), "kind": kind}
    for field in KINDS[kind]:
        record[field] = draw(_whole) if field == "count" else draw(_name)
    if draw(st.booleans()):
        record["memory_current_bytes"] = draw(_whole)
    if draw(st.booleans()):
        record["waited_ms"] = draw(st.floats(0, 1e12))
    if draw(st.booleans()):
        record["note"] = draw(st.text(st.characters(exclude_categories=("Cs",))))
    return record


@given(st.lists(_records(), max_size=20), st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
@settings(deadline=None, max_examples=60)
def test_round_trip(records: list[dict[str, Any]], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with TraceWriter(path) as writer:
            for record in records:
                writer.write(record)
        trace = read_trace(path)
    assert trace.records == records
    assert trace.damage == []


@given(st.lists(_records(), max_size=8), st.data())
@settings(deadline=None, max_examples=80)
def test_a_cut_anywhere_loses_the_tail_only(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        with TraceWriter(path) as writer:
            for record in records:
                writer.write(record)
        whole = path.read_bytes()
        cut = data.draw(st.integers(whole.index(b"\n") + 1, len(whole)))
        path.write_bytes(whole[:cut])
        got = read_trace(path).records
    assert got == records[: len(got)]
    assert len(got) >= whole[:cut].count(b"\n") - 1


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_foreign_bytes_never_raise_anything_else(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("t.jsonl", "t.gz"):
            path = Path(folder) / name
            path.write_bytes(junk)
            with contextlib.suppress(FormatError):
                read_trace(path)
        path = Path(folder) / "h.jsonl"
        path.write_bytes(json.dumps(make_header()).encode() + b"\n" + junk)
        with contextlib.suppress(FormatError):
            session_from_trace(read_trace(path), path)
