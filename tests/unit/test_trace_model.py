# SPDX-License-Identifier: Apache-2.0
"""Importer of AgentCgroup task directories, own traces as sessions, and the split into calls."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.errors import FormatError
from agentcgroup.trace.format import TraceWriter
from agentcgroup.trace.importers.agentcgroup import parse_human_bytes, read_task_directory
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.model import CallSpan, split_calls, thin_out

SMALL = Path(__file__).parents[1] / "data-small"
MB = 10**6


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("195.7MB ", 195_700_000),
        ("196MB", 196_000_000),
        ("2.04GB", 2_040_000_000),
        ("12.3kB", 12_300),
        ("0B", 0),
        ("12 MiB", None),
        ("", None),
        ("-1MB", None),
    ],
)
def test_podman_sizes_are_decimal(text: str, size: int | None) -> None:
    assert parse_human_bytes(text) == size


def test_as_authors_multiplies_by_1024() -> None:
    assert parse_human_bytes("320.9MB", as_authors=True) == round(320.9 * 1024 * 1024)


def test_task_directory() -> None:
    trace = load_session_trace(SMALL / "agentcgroup-task")
    assert trace.name == "agentcgroup-task"
    assert len(trace.samples) == 8  # the 0 B tail is gone
    assert trace.peak_bytes == 1250 * MB
    assert trace.duration_s == 7.0
    assert trace.samples[0] == (0.0, 12_500_000)
    assert [call.tool for call in trace.calls] == ["Bash", "Read"]
    assert [call.command for call in trace.calls] == ["pytest -q", None]
    assert len(trace.notes) == 4


def test_calls_hold_what_is_above_the_level_before_them() -> None:
    trace = load_session_trace(SMALL / "agentcgroup-task")
    first, second = trace.calls
    assert first.begin_s == pytest.approx(1.5)
    assert first.samples == ((pytest.approx(0.5), 80_500_000), (pytest.approx(1.5), 120 * MB))
    assert first.peak_bytes == 120 * MB
    assert second.peak_bytes == 1150 * MB
    assert [size for _, size in trace.agent_samples[:4]] == [
        12_500_000,
        100 * MB,
        100 * MB,
        100 * MB,
    ]


def test_cpu_is_differenced_from_the_running_average() -> None:
    cpu = load_session_trace(SMALL / "agentcgroup-task").cpu_samples
    assert cpu[0] == (0.0, pytest.approx(0.1))
    assert cpu[3] == (3.0, pytest.approx(0.6 * 3.1))
    assert all(b[1] >= a[1] for a, b in pairwise(cpu))


def test_overlapping_calls_do_not_count_twice() -> None:
    samples = ((0.0, 100), (1.0, 150), (2.0, 300), (3.0, 300), (4.0, 90))
    spans = [CallSpan(0.5, 3.5, "Task"), CallSpan(1.5, 2.5, "Bash")]
    calls, agent = split_calls(samples, spans)
    assert calls[0].samples == ((0.5, 50), (2.5, 200))
    assert calls[1].samples == ((0.5, 150),)
    assert agent == ((0.0, 100), (1.0, 100), (2.0, 100), (3.0, 100), (4.0, 90))


def test_thin_out_keeps_first_last_and_peak() -> None:
    samples = ((0.0, 100), (1.0, 101), (2.0, 150), (3.0, 152), (4.0, 149), (5.0, 151))
    assert thin_out(samples, 10) == ((0.0, 100), (2.0, 150), (3.0, 152), (5.0, 151))
    assert thin_out(samples, 0) == samples


def test_directory_without_samples() -> None:
    with pytest.raises(FormatError) as failure:
        read_task_directory(SMALL / "agentcgroup-empty")
    assert failure.value.exit_code == 78
    assert "samples" in failure.value.field


def test_directory_without_resources(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"resources\.json"):
        load_session_trace(tmp_path)
    with pytest.raises(FormatError, match="no such"):
        load_session_trace(tmp_path / "nowhere")


def _broken(tmp_path: Path, name: str, change: Any) -> Path:
    target = tmp_path / "task"
    shutil.copytree(SMALL / "agentcgroup-task", target)
    data = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(change(data)))
    return target


def _set_sample(field: str, value: object) -> Any:
    def change(data: Any) -> Any:
        data["samples"][3][field] = value
        return data

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [("mem_usage", "lots"), ("mem_usage", 5), ("epoch", "x"), ("epoch", 3), ("cpu_percent", "x%")],
)
def test_broken_samples_name_the_place(tmp_path: Path, field: str, value: object) -> None:
    path = _broken(tmp_path, "resources.json", _set_sample(field, value))
    with pytest.raises(FormatError, match=rf"samples\[3\]\.{field}"):
        read_task_directory(path)


@pytest.mark.parametrize("value", ["2026-02-01T00:00:00", "x", 4])
def test_tool_times_need_a_zone(tmp_path: Path, value: object) -> None:
    def change(data: Any) -> Any:
        data[0]["timestamp"] = value
        return data

    with pytest.raises(FormatError, match=r"tool_calls\.json\[0\]\.timestamp"):
        read_task_directory(_broken(tmp_path, "tool_calls.json", change))


def test_truncated_gzip_in_a_task_directory(tmp_path: Path) -> None:
    (tmp_path / "resources.json.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(FormatError):
        load_session_trace(tmp_path)


def _own(path: Path, *records: dict[str, Any]) -> Path:
    with TraceWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def _sample(t_ms: int, size: int, session: str = "s", **more: Any) -> dict[str, Any]:
    return {
        "t_ns": t_ms * 10**6, "kind": "sample", "session": session,
        "memory_current_bytes": size, **more,
    }  # fmt: skip


def test_own_trace_as_a_session(tmp_path: Path) -> None:
    path = _own(
        tmp_path / "t.jsonl.gz",
        {"t_ns": 0, "kind": "session", "session": "s"},
        _sample(1000, 50 * MB, inactive_file_bytes=10 * MB),
        {"t_ns": 1_050_000_000, "kind": "call_begin", "session": "s", "call": "c", "tool": "Bash"},
        _sample(1100, 90 * MB, inactive_file_bytes=10 * MB),
        _sample(1100, 30 * MB, call="c"),
        {"t_ns": 1_150_000_000, "kind": "call_end", "session": "s", "call": "c"},
        _sample(1200, 40 * MB),
    )
    trace = load_session_trace(path)
    assert trace.name == "s"
    assert [size for _, size in trace.samples] == [40 * MB, 80 * MB, 40 * MB]
    assert trace.duration_s == pytest.approx(0.2)
    assert [(c.tool, c.peak_bytes) for c in trace.calls] == [("Bash", 40 * MB)]


def test_several_sessions_need_a_name(tmp_path: Path) -> None:
    path = _own(
        tmp_path / "t.jsonl",
        *(_sample(t, 5, name) for t in (1, 2) for name in ("a", "b")),
    )
    with pytest.raises(FormatError, match="several sessions"):
        load_session_trace(path)
    assert load_session_trace(path, session="b").name == "b"
    with pytest.raises(FormatError, match="holds: a, b"):
        load_session_trace(path, session="c")


def test_own_trace_without_samples(tmp_path: Path) -> None:
    path = _own(tmp_path / "t.jsonl", {"t_ns": 0, "kind": "end"})
    with pytest.raises(FormatError, match="two sample records"):
        load_session_trace(path)
