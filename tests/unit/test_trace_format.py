# SPDX-License-Identifier: Apache-2.0
"""The project's own trace format: round trip, damage, errors that name line and field."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from agentcgroup.clock import FakeClock
from agentcgroup.errors import FormatError, NotSupportedError
from agentcgroup.trace.format import TraceReader, TraceWriter, make_header, read_trace

SAMPLE = {"t_ns": 5, "kind": "sample", "session": "a", "memory_current_bytes": 4096}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    records = [
        {"t_ns": 0, "kind": "session", "session": "a", "priority": "high"},
        {"t_ns": 1, "kind": "call_begin", "session": "a", "call": "c1", "command": "pytest ü"},
        SAMPLE,
        {"t_ns": 9, "kind": "call_end", "session": "a", "call": "c1", "exit_code": 0},
        {"t_ns": 10, "kind": "end"},
    ]
    with TraceWriter(path, {"kernel": "x"}, epoch_ns=77) as writer:
        for record in records:
            writer.write(record)
    trace = read_trace(path)
    assert trace.records == records
    assert trace.header["epoch_ns"] == 77
    assert trace.header["host"] == {"kernel": "x"}
    assert trace.damage == []


def test_half_a_last_line_is_reported_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as writer:
        writer.write(SAMPLE)
    with path.open("ab") as stream:
        stream.write(b'{"t_ns":6,"kind":"sam')
    trace = read_trace(path)
    assert trace.records == [SAMPLE]
    assert [damage.line for damage in trace.damage] == [3]
    assert "ignored" in str(trace.damage[0])


def test_gzip_stream_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    with TraceWriter(path) as writer:
        for number in range(2000):
            writer.write({**SAMPLE, "t_ns": number})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    trace = read_trace(path)
    assert 0 < len(trace.records) < 2000
    assert [r["t_ns"] for r in trace.records] == list(range(len(trace.records)))
    assert len(trace.damage) == 1


def test_gzip_survives_a_writer_that_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    writer = TraceWriter(path)
    writer.write(SAMPLE)
    writer.flush()
    trace = read_trace(path)
    assert trace.records == [SAMPLE]
    assert len(trace.damage) == 1
    writer.close()


def test_continued_file_shifts_to_the_first_clock(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path, epoch_ns=1000) as writer:
        writer.write(SAMPLE)
    with path.open("ab") as stream:
        stream.write(b'{"half')
    with TraceWriter(path, epoch_ns=4000) as writer:
        writer.write(SAMPLE)
    trace = read_trace(path)
    assert [r["t_ns"] for r in trace.records] == [5, 3005]
    assert [damage.line for damage in trace.damage] == [3]


def test_compressed_files_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    TraceWriter(path).close()
    with pytest.raises(FormatError, match="choose a new name"):
        TraceWriter(path)


def test_flush_bound_by_count_and_by_time(tmp_path: Path) -> None:
    clock = FakeClock()
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(path, flush_records=3, flush_ms=100, clock=clock)

    def lines() -> int:
        return path.read_bytes().count(b"\n")

    writer.write(SAMPLE)
    writer.write(SAMPLE)
    assert lines() == 1
    writer.write(SAMPLE)
    assert lines() == 4
    clock.advance_ns(100_000_000)
    writer.write(SAMPLE)
    assert lines() == 5
    writer.close()


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"kind":"sample","session":"a"}', "line 2: t_ns"),
        ('{"t_ns":-1,"kind":"end"}', "line 2: t_ns"),
        ('{"t_ns":1.5,"kind":"end"}', "line 2: t_ns"),
        ('{"t_ns":true,"kind":"end"}', "line 2: t_ns"),
        ('{"t_ns":1,"kind":"weather"}', "line 2: kind"),
        ('{"t_ns":1,"kind":["end"]}', "line 2: kind"),
        ('{"t_ns":1}', "line 2: kind"),
        ('{"t_ns":1,"kind":"sample"}', "line 2: session"),
        ('{"t_ns":1,"kind":"call_end","session":"a"}', "line 2: call"),
        ('{"t_ns":1,"kind":"dropped"}', "line 2: count"),
        ('{"t_ns":1,"kind":"sample","session":""}', "line 2: session"),
        ('{"t_ns":1,"kind":"end","anon_bytes":"4K"}', "line 2: anon_bytes"),
        ('{"t_ns":1,"kind":"end","waited_ms":-3}', "line 2: waited_ms"),
        ('{"t_ns":1,"kind":"end","energy_j":1e999}', "line 2: energy_j"),
        ('{"t_ns":1,"kind":"end","energy_j":null}', "line 2: energy_j"),
        ("[1]", "line 2"),
    ],
)
def test_schema_errors_name_line_and_field(tmp_path: Path, line: str, field: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(make_header()) + "\n" + line + '\n{"t_ns":9,"kind":"end"}\n')
    with pytest.raises(FormatError) as failure:
        read_trace(path)
    assert failure.value.field == field
    assert failure.value.remedy


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(make_header()) + '\n{"t_ns\n{"t_ns":9,"kind":"end"}\n')
    with pytest.raises(FormatError, match="line 2"):
        read_trace(path)


@pytest.mark.parametrize(
    "first",
    ["", "\n", "hello\n", '{"format":"other"}\n', "[]\n", "\x00\x01\n"],
)
def test_not_a_trace(tmp_path: Path, first: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(first)
    with pytest.raises(FormatError):
        TraceReader(path)


@pytest.mark.parametrize(
    ("key", "value"), [("version", 2), ("clock", "real"), ("epoch_ns", "x"), ("host", [])]
)
def test_header_errors_name_the_field(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({**make_header(), key: value}) + "\n")
    with pytest.raises(FormatError, match=f"line 1: {key}"):
        TraceReader(path)


def test_a_gz_that_is_no_gzip(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(b"plain text\n")
    with pytest.raises(FormatError):
        TraceReader(path)


def test_the_writer_refuses_what_readers_would(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.jsonl") as writer:
        with pytest.raises(FormatError, match="kind"):
            writer.write({"t_ns": 1, "kind": "weather"})
        with pytest.raises(FormatError, match="plain JSON"):
            writer.write({"t_ns": 1, "kind": "end", "extra": object()})
    assert read_trace(tmp_path / "t.jsonl").records == []


def test_zstd_without_its_module_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(NotSupportedError, match="zstandard"):
        TraceWriter(tmp_path / "t.jsonl.zst")


def test_a_hundred_thousand_lines_load_quickly(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    line = json.dumps({**SAMPLE, "anon_bytes": 1, "file_bytes": 2, "cpu_usage_us": 3}) + "\n"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.write(json.dumps(make_header()) + "\n" + line * 100_000)
    begin_s = time.process_time()
    assert len(read_trace(path).records) == 100_000
    # In CPU time: other load on the machine does not count. 0.5 s as this is written.
    assert time.process_time() - begin_s < 5
