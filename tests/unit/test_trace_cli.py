# SPDX-License-Identifier: Apache-2.0
"""The trace commands that need no cgroup: show, validate, import, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import AgentCgroupError, FormatError, InvalidValueError

SMALL = Path(__file__).parents[1] / "data-small"
TASK = str(SMALL / "agentcgroup-task")
run = CliRunner()


def _error(*arguments: str) -> BaseException | None:
    return run.invoke(app, list(arguments)).exception


def test_show() -> None:
    result = run.invoke(app, ["show", TASK])
    assert result.exit_code == 0
    assert "peak 1.16 GiB" in result.output
    assert "note: left out 1 samples of 0 B" in result.output
    summary = json.loads(run.invoke(app, ["show", TASK, "--json"]).output)
    assert summary["peak_bytes"] == 1_250_000_000
    assert len(summary["calls"]) == 2
    authors = json.loads(run.invoke(app, ["show", TASK, "--json", "--as-authors"]).output)
    assert authors["peak_bytes"] == 1.25 * (1 << 30)


def test_import_then_validate_then_show(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl.gz"
    assert run.invoke(app, ["import", TASK, "--out", str(out)]).exit_code == 0
    assert isinstance(_error("import", TASK, "--out", str(out)), InvalidValueError)
    result = run.invoke(app, ["validate", str(out), TASK])
    assert result.exit_code == 0
    assert "2 call_begin, 2 call_end, 1 end, 8 sample, 1 session" in result.output
    assert "peak 1.16 GiB" in run.invoke(app, ["show", str(out)]).output


def test_validate_reports_a_damaged_tail(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.invoke(app, ["import", TASK, "--out", str(out)])
    out.write_bytes(out.read_bytes()[:-9])
    result = run.invoke(app, ["validate", str(out)])
    assert result.exit_code == 0
    assert "ignored from here" in result.output


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--priority", "urgent"], "--priority"),
        (["--policies", "none,magic"], "--policies"),
        (["--policies", "none,none"], "--policies"),
        (["--speed", "0"], "--speed"),
        (["--total-memory", "2GBs"], "--total-memory"),
        (["--policies", "alone", "--expect-loss-under", "none"], "--expect-loss-under"),
    ],
)
def test_compare_refuses_nonsense_by_name(arguments: list[str], field: str) -> None:
    problem = _error("compare", TASK, "--total-memory", "1G", *arguments)
    assert isinstance(problem, InvalidValueError)
    assert problem.field == field


def test_a_directory_without_samples_is_78() -> None:
    problem = _error("replay", str(SMALL / "agentcgroup-empty"), "--total-memory", "1G")
    assert isinstance(problem, FormatError)
    assert problem.exit_code == 78


def test_a_root_that_is_no_cgroup(tmp_path: Path) -> None:
    for command in (
        ["replay", TASK, "--total-memory", "1G", "--policy", "none"],
        ["record", "--out", str(tmp_path / "t.jsonl")],
    ):
        tail = ["--", "true"] if command[0] == "record" else []
        problem = _error(*command, "--root", str(tmp_path), *tail)
        assert isinstance(problem, AgentCgroupError)
        assert problem.exit_code == 78
    assert list(tmp_path.iterdir()) == []
