# SPDX-License-Identifier: Apache-2.0
"""Importers: told by content, nothing lost without a word, errors that name line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import FormatError, InvalidValueError
from agentcgroup.trace.format import read_trace
from agentcgroup.trace.importers import files
from agentcgroup.trace.importers.detect import import_source
from agentcgroup.trace.importers.imported import Imported
from agentcgroup.trace.load import load_session_trace

SMALL = Path(__file__).parents[1] / "data-small"
run = CliRunner()


def of_kind(found: Imported, kind: str) -> list[dict[str, Any]]:
    return [record for record in found.records if record["kind"] == kind]


def test_task_directory_with_steps() -> None:
    found = import_source(SMALL / "agentcgroup-task")
    assert found.source_kind == "agentcgroup"
    assert found.epoch_ns == 1770000000500000000
    first, second = of_kind(found, "step")
    assert first["t_ns"] == pytest.approx(1.9e9)
    assert (first["prompt_tokens"], first["completion_tokens"]) == (1200, 80)
    assert first["duration_s"] == 1.5
    assert second["prompt_tokens"] == 1503
    assert "completion_tokens" not in second
    assert "left out output tokens that are a stream's first value" in found.changes
    times = [record["t_ns"] for record in found.records]
    assert times == sorted(times)


def test_the_last_attempt_counts_and_ends_may_be_elsewhere() -> None:
    trace = load_session_trace(SMALL / "agentcgroup-attempts")
    assert trace.name == "agentcgroup-attempts"
    assert [call.command for call in trace.calls] == ["pytest -q", None]
    assert "used attempt_2, the last of 2 attempts" in trace.notes
    assert "took the end of 2 tool calls from tool_times.jsonl" in trace.notes


def test_agentstop_runs() -> None:
    found = import_source(SMALL / "agentstop")
    assert found.sessions == ["small-0", "small-1"]
    steps = of_kind(found, "step")
    assert [step["t_ns"] / 1e9 for step in steps] == [2.0, 3.5, 12.0]
    assert steps[0]["energy_j"] == pytest.approx(36.0)
    assert "energy_j" not in steps[1]
    assert steps[0]["logprobs"] == [-0.1, -0.2, -1.5]
    about = of_kind(found, "session")
    assert [a["success"] for a in about] == [True, False]
    assert about[0]["energy_j"] == pytest.approx(108.0)
    assert "step without an energy" in found.changes


def test_docker_stream() -> None:
    found = import_source(SMALL / "stats" / "docker-stream.txt")
    assert found.sessions == ["agent-1"]
    samples = of_kind(found, "sample")
    assert [s["memory_current_bytes"] >> 20 for s in samples] == [100, 1536, 120]
    assert [s["t_ns"] / 1e9 for s in samples] == [0, 1, 2]
    assert [s["cpu_usage_us"] for s in samples] == [0, 1_000_000, 1_000_000]
    assert samples[0]["io_read_bytes"] == 4_100_000
    assert "left out a row without memory (container stopped)" in found.changes
    assert "left out a line that is no row" in found.changes
    assert "no times in the log: rounds taken as 1 s apart" in found.changes


def test_docker_json_with_times() -> None:
    found = import_source(SMALL / "stats" / "docker-json.txt", interval_s=60)
    assert found.epoch_ns == 1_770_000_000_500_000_000
    assert [s["t_ns"] / 1e9 for s in of_kind(found, "sample")] == [0, 1, 3]
    assert "left out a row of 0 B (container gone)" in found.changes


def test_podman_json_arrays_carry_cpu_time() -> None:
    found = import_source(SMALL / "stats" / "podman.json", interval_s=2)
    samples = of_kind(found, "sample")
    assert [s["memory_current_bytes"] for s in samples] == [11_960_000, 185_500_000, 1_862_000_000]
    assert [s["cpu_usage_us"] for s in samples] == [0, 1_500_000, 3_000_000]
    assert [s["t_ns"] / 1e9 for s in samples] == [0, 2, 4]


def test_podman_table_has_no_usable_percentage(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(
        "ID            NAME        CPU %       MEM USAGE / LIMIT  MEM %       PIDS\n"
        "0123456789ab  agent-1     12.00%      11.5MB / 8.3GB     0.14%       2\n"
    )
    found = import_source(log)
    assert "cpu_usage_us" not in of_kind(found, "sample")[0]
    assert any("average since" in change for change in found.changes)


def test_a_stats_log_can_be_replayed_as_it_is() -> None:
    trace = load_session_trace(SMALL / "stats" / "docker-stream.txt")
    assert trace.peak_bytes == 1536 << 20
    assert trace.cpu_samples[-1] == (2.0, 1.0)
    assert any("rounds taken as" in note for note in trace.notes)


@pytest.mark.parametrize("name", ["agentcgroup-task", "agentstop", "stats/docker-stream.txt"])
def test_import_validate_show_convert(tmp_path: Path, name: str) -> None:
    out = tmp_path / "t.jsonl"
    result = run.invoke(app, ["import", str(SMALL / name), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "note: " in result.output
    header = read_trace(out).header
    assert header["host"]["import_changes"]
    packed = tmp_path / "t.jsonl.gz"
    for arguments in (
        ["validate", str(out)], ["show", str(out)],
        ["convert", str(out), "-o", str(packed)],
    ):  # fmt: skip
        assert run.invoke(app, arguments).exit_code == 0
    assert read_trace(packed).records == read_trace(out).records
    assert read_trace(packed).header == header


def test_show_lists_sessions_when_there_are_several(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.invoke(app, ["import", str(SMALL / "agentstop"), "-o", str(out)])
    shown = json.loads(run.invoke(app, ["show", str(out), "--json"]).output)
    assert [s["name"] for s in shown["sessions"]] == ["small-0", "small-1"]
    assert shown["sessions"][0] == {
        "name": "small-0", "peak_bytes": None, "samples": 0, "calls": 0, "steps": 2,
        "decisions": 0, "duration_s": 9.0,
    }  # fmt: skip


def test_convert_picks_a_session_and_writes_csv(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.invoke(app, ["import", str(SMALL / "agentstop"), "-o", str(out)])
    one = tmp_path / "one.jsonl"
    assert (
        run.invoke(app, ["convert", str(out), "-o", str(one), "--session", "small-1"]).exit_code
        == 0
    )
    assert {r["session"] for r in read_trace(one).records} == {"small-1"}
    missing = run.invoke(
        app, ["convert", str(out), "-o", str(tmp_path / "x"), "--session", "nobody"]
    )
    assert isinstance(missing.exception, FormatError)
    assert not (tmp_path / "x").exists()
    task = tmp_path / "task.jsonl"
    run.invoke(app, ["import", str(SMALL / "agentcgroup-task"), "-o", str(task)])
    table = tmp_path / "t.csv"
    assert run.invoke(app, ["convert", str(task), "-o", str(table)]).exit_code == 0
    lines = table.read_text().splitlines()
    assert lines[0].startswith("t_ns,session,call,memory_current_bytes")
    assert lines[1].startswith("0,agentcgroup-task,,12500000")
    assert len(lines) == 9


def test_what_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    strange = tmp_path / "notes.txt"
    strange.write_text("dear diary\n")
    for source in (strange, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FormatError) as failure:
            import_source(source)
        assert failure.value.field == "source"
    problem = run.invoke(app, ["import", str(strange), "-o", str(tmp_path / "o")]).exception
    assert isinstance(problem, InvalidValueError)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 7}, "line 2: id"),
        ({"steps": "none"}, "line 2: steps"),
        ({"steps": [3]}, "steps[0]"),
        ({"steps": [{"step": -1, "prompt_tokens": 1, "completion_tokens": 1}]}, "steps[0].step"),
        ({"steps": [{"step": 0, "prompt_tokens": 1.5}]}, "steps[0].prompt_tokens"),
    ],
)
def test_agentstop_errors_name_line_and_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    good = (SMALL / "agentstop" / "trajectories.jsonl").read_text().splitlines()
    bad = {**json.loads(good[1]), **change}
    path = tmp_path / "trajectories.jsonl"
    path.write_text("\n".join([good[0], json.dumps(bad)]) + "\n")
    with pytest.raises(FormatError) as failure:
        import_source(path)
    assert field in failure.value.field


def test_half_a_last_line_of_runs_is_left_out(tmp_path: Path) -> None:
    text = (SMALL / "agentstop" / "trajectories.jsonl").read_text()
    path = tmp_path / "trajectories.jsonl"
    path.write_text(text[:-40])
    found = import_source(path)
    assert found.sessions == ["small-0"]
    assert "left out half a last line of trajectories.jsonl" in found.changes


def test_a_compressed_file_that_breaks_off_is_told(tmp_path: Path) -> None:
    first, second = (SMALL / "agentstop" / "trajectories.jsonl").read_text().splitlines(True)
    path = tmp_path / "trajectories.jsonl.gz"
    whole = gzip.compress(first.encode()) + gzip.compress(second.encode())
    path.write_bytes(whole[:-20])
    found = import_source(path)
    assert found.sessions == ["small-0"]
    assert any("breaks off" in change for change in found.changes)


def test_files_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(FormatError, match="at most"):
        import_source(SMALL / "agentcgroup-task")
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    with pytest.raises(FormatError, match="line 1"):
        import_source(SMALL / "agentstop")
