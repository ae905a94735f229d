# SPDX-License-Identifier: Apache-2.0
"""agentcgroup supervisor …: from files to a model, figures and pictures; refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from supervisor_runs import made_up_runs, write_runs
from typer.testing import CliRunner

from agentcgroup.cli.supervisor import app
from agentcgroup.errors import FormatError, InvalidValueError

run = CliRunner()
LABELS = (
    "success", "agent_answer", "reference_answer", "answerable_without_agent", "total_energy_mwh",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("supervisor")
    data = write_runs(folder / "runs.jsonl.gz", made_up_runs(160))
    model = folder / "model.json"
    result = run.invoke(app, ["train", str(data), "--out", str(model), "--seed", "3"])
    assert result.exit_code == 0, result.output
    return data, model


def _error(*arguments: str) -> BaseException | None:
    return run.invoke(app, list(arguments)).exception


def test_evaluate_has_the_keys_others_read(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, model = trained
    fresh = write_runs(tmp_path / "fresh.jsonl", made_up_runs(100, seed=5))
    out, plots = tmp_path / "e.json", tmp_path / "plots"
    result = run.invoke(
        app,
        ["evaluate", str(fresh), "--model", str(model), "--json", str(out), "--plots", str(plots)],
    )
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())
    for name in ("waste_saved", "utility_drop"):
        low, high = told[f"{name}_ci95"]
        assert low <= told[name] <= high
    assert told["basis"] == "steps"
    assert told["paper_basis"]["basis"] == "paper"
    assert (told["n_runs"], told["population"]) == (92, "answerable_without_agent is not true")
    assert told["n_false_stops"] / told["n_success"] == told["utility_drop"]
    assert len(told["auc"]) == 10
    assert told["answer_now"]["waste_saved"] < told["waste_saved"]
    assert told["waste_saved"] > 0.05
    names = {path.stem for path in plots.glob("*.png")}
    assert names == {"waste_against_drop", "reliability", "auc_by_step", "drivers"}


def test_evaluating_on_fitted_runs_is_said(trained: tuple[Path, Path]) -> None:
    data, model = trained
    result = run.invoke(app, ["evaluate", str(data), "--model", str(model)])
    assert "were used for fitting" in result.output


def test_labels_and_totals_change_no_decision(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, model = trained
    runs = made_up_runs(60, seed=9)
    blind = [{key: value for key, value in r.items() if key not in LABELS} for r in runs]
    told = []
    for name, content in (("with", runs), ("without", blind)):
        data = write_runs(tmp_path / f"{name}.jsonl", content)
        told.append(json.loads(run.invoke(
            app, ["score", str(data), "--model", str(model), "--json"]).output))  # fmt: skip
    assert told[0] == told[1]
    assert any(entry["stopped_after"] for entry in told[0])


def test_a_cut_run_has_the_same_scores_so_far(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, model = trained
    whole = made_up_runs(30, seed=2)
    cut = [r | {"steps": r["steps"][:3]} for r in whole]
    told = []
    for name, content in (("whole", whole), ("cut", cut)):
        data = write_runs(tmp_path / f"{name}.jsonl", content)
        told.append(json.loads(run.invoke(
            app, ["score", str(data), "--model", str(model), "--json"]).output))  # fmt: skip
    for one, other in zip(*told, strict=True):
        assert other["scores"] == one["scores"][:3]


def test_explain_and_show(trained: tuple[Path, Path]) -> None:
    data, model = trained
    told = json.loads(run.invoke(
        app, ["explain", str(data), "--model", str(model), "--run", "made-up-0003", "--json"]
    ).output)  # fmt: skip
    assert told["run"] == "made-up-0003"
    assert told["contributions"]
    shown = json.loads(run.invoke(app, ["show", str(model), "--json"]).output)
    assert shown["calibration"]["bound"] == "expected"
    assert "ensembles" not in shown
    assert run.invoke(app, ["show", str(model)]).exit_code == 0
    assert run.invoke(app, ["score", str(data), "--model", str(model)]).exit_code == 0


def test_calibrate_takes_runs_that_were_not_fitted(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, model = trained
    out = tmp_path / "again.json"
    problem = _error("calibrate", str(data), "--model", str(model), "--out", str(out))
    assert isinstance(problem, InvalidValueError)
    assert "was fitted" in problem.remedy or "fitted on this run" in problem.remedy
    others = made_up_runs(300, seed=8)
    for other in others:
        other["id"] = "other-" + other["id"]
    fresh = write_runs(tmp_path / "fresh.jsonl", others)
    result = run.invoke(app, [
        "calibrate", str(fresh), "--model", str(model), "--out", str(out), "--max-drop", "0.1",
        "--bound", "high-probability", "--confidence", "0.9",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    note = json.loads(run.invoke(app, ["show", str(out), "--json"]).output)["calibration"]
    assert (note["bound"], note["certified"]) == ("high-probability", True)
    assert note["drop_bound"] <= 0.1


def test_high_probability_that_cannot_be_certified_says_so(tmp_path: Path) -> None:
    data = write_runs(tmp_path / "r.jsonl", made_up_runs(100))
    out = tmp_path / "m.json"
    result = run.invoke(
        app, ["train", str(data), "--out", str(out), "--bound", "high-probability"]
    )  # fmt: skip
    assert "not certified: a drop of at most 5.0% at 95% confidence" in result.output
    shown = json.loads(run.invoke(app, ["show", str(out), "--json"]).output)
    assert shown["calibration"]["certified"] is False
    assert shown["data"]["n_runs"] < 92


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r["steps"].clear(), "steps"),
        (lambda r: r["steps"][0].update(step=4), "steps.0.step"),
        (lambda r: r["steps"][0].update(prompt_tokens=-1), "steps.0.prompt_tokens"),
        (lambda r: r["steps"][0].update(energy_mwh=math.nan), "steps.0.energy_mwh"),
        (lambda r: r["steps"][0]["logprobs"].__setitem__(0, -math.inf), "steps.0.logprobs.0"),
        (lambda r: r["steps"][0]["logprobs"].pop(), "steps.0.logprobs"),
        (lambda r: r.update(id="made-up-0001"), "id"),
        (lambda r: r.update(success="yes it did"), "success"),
        (lambda r: r.pop("success"), "success"),
    ],
)
def test_runs_that_cannot_be_used_are_named(tmp_path: Path, change: Any, field: str) -> None:
    runs = made_up_runs(40)
    change(runs[3])
    data = write_runs(tmp_path / "r.jsonl", runs)
    problem = _error("train", str(data), "--out", str(tmp_path / "m"))
    assert isinstance(problem, FormatError)
    assert field in problem.field
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not json\n", b"[]\n", b"\xff\xfe\n"])
def test_files_that_are_no_runs_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.jsonl").write_bytes(content)
    assert isinstance(
        _error("train", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "m")), FormatError
    )


def test_a_cut_gzip_is_refused(tmp_path: Path) -> None:
    data = write_runs(tmp_path / "r.jsonl.gz", made_up_runs(40))
    data.write_bytes(data.read_bytes()[:-200])
    assert isinstance(_error("train", str(data), "--out", str(tmp_path / "m")), FormatError)
    assert isinstance(
        _error("train", str(tmp_path / "no"), "--out", str(tmp_path / "m")), FormatError
    )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--max-drop", "0"], "--max-drop"),
        (["--max-drop", "nan"], "--max-drop"),
        (["--confidence", "1"], "--confidence"),
        (["--features", "half"], "--features"),
    ],
)
def test_train_refuses_nonsense_by_name(tmp_path: Path, arguments: list[str], field: str) -> None:
    data = write_runs(tmp_path / "r.jsonl", made_up_runs(40))
    problem = _error("train", str(data), "--out", str(tmp_path / "m"), *arguments)
    assert isinstance(problem, InvalidValueError)
    assert problem.field == field


@pytest.mark.parametrize(
    "arguments", [["--run", "nobody"], ["--run", "made-up-0001", "--step", "99"]]
)
def test_explain_names_what_is_not_there(trained: tuple[Path, Path], arguments: list[str]) -> None:
    data, model = trained
    problem = _error("explain", str(data), "--model", str(model), *arguments)
    assert isinstance(problem, InvalidValueError)
