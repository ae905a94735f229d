# SPDX-License-Identifier: Apache-2.0
"""trace analyze on the small sets: pinned figures, hand-worked definitions, both columns."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import FormatError
from agentcgroup.trace.analysis import attribution, memory, times
from agentcgroup.trace.analysis.authors import as_authors
from agentcgroup.trace.analysis.corrected import corrected_figures
from agentcgroup.trace.analysis.load import load_sets
from agentcgroup.trace.analysis.runs import Call, Run, is_valid
from agentcgroup.trace.analysis.study import study

SMALL = Path(__file__).parents[1] / "data-small"
SETS = SMALL / "agentcgroup-sets"
PINNED = SMALL / "agentcgroup-sets.as-authors.json"
TRACES = Path(__file__).parents[2] / "traces"
run = CliRunner()


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Run]]:
    return load_sets([SETS])


def differences(wanted: Any, got: Any, where: str = "") -> list[str]:
    """Where `got` lacks or misses a value of `wanted`, 1e-6 relative."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        missing = [f"{where}.{key} missing" for key in wanted.keys() - got.keys()]
        shared = wanted.keys() & got.keys()
        return missing + [
            d
            for key in sorted(shared)
            for d in differences(wanted[key], got[key], f"{where}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = zip(wanted, got, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}[{i}]")]
    if isinstance(wanted, int | float) and isinstance(got, int | float):
        same = math.isclose(wanted, got, rel_tol=1e-6, abs_tol=1e-9)
    else:
        same = wanted == got
    return [] if same else [f"{where}: {wanted} != {got}"]


def test_pinned_figures_of_the_small_sets(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    done = run.invoke(app, ["analyze", str(SETS), "--as-authors", "--json", str(out)])
    assert done.exit_code == 0, done.output
    wanted = json.loads(PINNED.read_text())
    assert differences(wanted, json.loads(out.read_text())) == []
    assert wanted["haiku"]["n_tasks"] == 5
    assert wanted["local"]["n_tasks"] == 5, "the run of 20 s did not take place"


def test_readings_of_a_printed_size(sets: dict[str, list[Run]]) -> None:
    first = next(r for r in sets["all_images_haiku"] if r.name == "b__two-2")
    raw = json.loads((SETS / "all_images_haiku" / first.name / "resources.json").read_text())
    texts = [sample["mem_usage"].split(" /")[0] for sample in raw["samples"]]
    for text, right, authors, cut in zip(
        texts, first.memory_mb, first.memory_1024_mb, first.memory_cut_mb, strict=True
    ):
        number = float(text.rstrip("kMGB"))
        if text.endswith("MB"):
            assert (right, authors) == (pytest.approx(number), number)
            assert cut == float(text[:-3] or 0)
        elif text.endswith("GB"):
            assert (right, authors) == (pytest.approx(1000 * number), 1024 * number)
    assert texts[-1] == "0B"
    assert first.memory_mb[-1] == 0


def test_load_is_differenced_from_the_running_average(sets: dict[str, list[Run]]) -> None:
    for found in sets["all_images_local"]:
        elapsed = found.epoch_s - found.epoch_s[0] + 0.1
        spent = (found.cpu_load_pct[1:] * np.diff(found.epoch_s)).sum() / 100
        average = found.cpu_average_pct / 100 * elapsed
        assert spent == pytest.approx(average[-1] - average[0], abs=0.02)
        assert found.cpu_load_pct[1:].max() > found.cpu_average_pct[1:].max()


def test_union_counts_parallel_calls_once() -> None:
    calls = [
        Call("A", 0, 10),
        Call("B", 2, 4),
        Call("C", 9, 12),
        Call("D", 20, 21),
        Call("E", 5, None),
    ]
    assert times.union_s(calls) == 13
    assert times.union_s([]) == 0


@pytest.mark.parametrize(
    ("command", "by_time", "by_burst"),
    [
        ("cd /x && pytest -q", "Test Execution", "Test Execution"),
        ("git status && pip install x", "Git Operations", "Package Install"),
        ("ls && python -c 'x'", "File Exploration", "Python Snippet"),
        ("python3 run.py | head", "Python Run", "Python Run"),
        ("grep -r x .", "Text Processing", "Text Processing"),
        ("cd /testbed", "Shell/Environment", "Other"),
        ("make", "Other", "Other"),
    ],
)
def test_kinds_of_commands(command: str, by_time: str, by_burst: str) -> None:
    assert times.bash_category(command) == by_time
    assert times.burst_category(command) == by_burst


def test_groups_in_a_row() -> None:
    row = [Call("Bash", t, t + 1) for t in range(3)]
    other = Call("Read", 5, 6)
    groups = attribution.groups_in_a_row(
        [*row, other, *row, *row, other, row[0]], attribution.is_bash
    )
    assert [len(group) for group in groups] == [3, 6]


def test_top_bursts_count_samples_in_a_row() -> None:
    values = np.array([10.0, 90, 85, 10, 100, 10])
    (top,) = memory.top_bursts([("t", 100.0, 20.0, values)])
    assert top["overprov_factor"] == 5
    assert top["spike_duration_samples"] == 2


def test_corrected_figures_hold_together(sets: dict[str, list[Run]]) -> None:
    for runs in sets.values():
        paper, right = as_authors({"x": runs})["x"], corrected_figures(runs)
        shares = right["latency_breakdown_pct"]
        parts = [shares[f"v2_{name}"]["mean"] for name in ("init", "tool", "llm")]
        assert sum(parts) == pytest.approx(100)
        assert min(parts) >= 0
        assert shares["v2_tool"]["mean"] < paper["latency_breakdown_pct"]["v2_tool"]["mean"]
        assert right["tokens"]["avg_turns"] < paper["tokens"]["avg_turns"]
        assert right["burst_attr"]["total_samples"] == paper["burst_attr"]["total_samples"]
        assert right["retry_test_groups"]["tasks_with_retries"] >= 1
        assert 0 < right["cpu_in_tools"]["cpu_time_in_tools_pct"] <= 100
    assert right["tokens"]["avg_output_per_turn"] is not None
    claude = corrected_figures(sets["all_images_haiku"])["tokens"]
    assert claude["avg_output_per_turn"] is None, "a stream's first value is no output"


def test_every_table_carries_two_definitions(tmp_path: Path) -> None:
    out, table, pictures = tmp_path / "o.json", tmp_path / "t.csv", tmp_path / "pictures"
    done = run.invoke(
        app,
        [
            "analyze",
            str(SETS),
            "--json",
            str(out),
            "--csv",
            str(table),
            "--pictures",
            str(pictures),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["schema"] == 1
    assert set(found["sets"]) == {"all_images_haiku", "all_images_local", "all"}
    for tables in found["sets"].values():
        for body in tables.values():
            assert body["paper_definition"]
            assert body["corrected_definition"]
            assert body["rows"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    count = sum(len(b["rows"]) for s in found["sets"].values() for b in s.values())
    assert len(rows) == count
    names = sorted(path.name for path in pictures.iterdir())
    assert names == ["bash.png", "concurrency.png", "latency.png", "peaks.png", "trajectory.png"]
    assert all(path.stat().st_size > 5000 for path in pictures.iterdir())


def test_own_traces_have_the_corrected_column() -> None:
    sets = load_sets([TRACES])
    tables = {table.name: table for table in study(sets) if table.set_name == "traces"}
    assert {"peaks", "overprov", "bash_burst", "change_rate"} <= tables.keys()
    assert all(row.paper is None for row in tables["peaks"].rows)
    assert any(is_valid(found) for found in sets["traces"])


def test_attempts_of_a_task_are_set_side_by_side(tmp_path: Path) -> None:
    import shutil

    source = SETS / "all_images_haiku" / "a__one-1"
    for name, seconds in (("t", 100.0), ("t@attempt_1", 150.0)):
        shutil.copytree(source, tmp_path / "set" / name)
        path = tmp_path / "set" / name / "outcome.json"
        outcome = json.loads(path.read_text())
        outcome["timings_s"]["claude_time"] = seconds
        path.write_text(json.dumps(outcome))
    sets = load_sets([tmp_path / "set"])
    (table,) = [t for t in study(sets) if t.name == "run_to_run"]
    assert {row.quantity: row.corrected for row in table.rows}["t.ratio"] == 1.5
    assert as_authors(sets)["set"]["n_tasks"] == 1


def test_ends_that_are_elsewhere_are_unknown_to_the_authors_scripts(tmp_path: Path) -> None:
    import shutil

    task = tmp_path / "set" / "t"
    shutil.copytree(SETS / "all_images_haiku" / "a__one-1", task)
    calls = json.loads((task / "tool_calls.json").read_text())
    for call in calls:
        del call["end_timestamp"], call["input"]
    (task / "tool_calls.json").write_text(json.dumps(calls))
    sets = load_sets([task.parent])
    paper, right = as_authors(sets)["set"], corrected_figures(sets["set"])
    assert paper["burst_attr"]["tool_samples"] == 0
    assert paper["tool_stats"]["Bash"]["total_s"] > 0
    assert right["burst_attr"]["tool_samples"] > 0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"timings_s": {"claude_time": "long"}}', "timings_s.claude_time"),
        ('{"success": true}', "timings_s"),
        ("[]", "outcome.json"),
    ],
)
def test_bad_outcome_names_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    import shutil

    task = tmp_path / "task"
    shutil.copytree(SETS / "all_images_haiku" / "a__one-1", task)
    (task / "outcome.json").write_text(text)
    with pytest.raises(FormatError) as failure:
        load_sets([task])
    assert field in failure.value.field
    with pytest.raises(FormatError, match="DIR"):
        load_sets([tmp_path / "nothing"])
