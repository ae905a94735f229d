# SPDX-License-Identifier: Apache-2.0
"""The model file: the same scores as the library that grew the trees; refusals by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from supervisor_runs import made_up_runs, write_runs

from agentcgroup.errors import FormatError, InvalidValueError
from agentcgroup.supervisor.features import feature_set, rows_of
from agentcgroup.supervisor.fitting import FULL_CANDIDATES, ensemble_of
from agentcgroup.supervisor.predictor import Predictor, load, save, shipped_models
from agentcgroup.supervisor.training import TrainingOptions, train
from agentcgroup.supervisor.trajectories import read_runs
from agentcgroup.supervisor.trees import Ensemble, LinearTerm, Tree

HAZARD = TrainingOptions(folds=4, candidates=FULL_CANDIDATES[:1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = write_runs(tmp_path_factory.mktemp("runs") / "runs.jsonl.gz", made_up_runs())
    return train(read_runs([path]), feature_set("full"), HAZARD, "made up")


def test_trees_score_as_xgboost_does() -> None:
    dice = np.random.default_rng(0)
    rows = dice.normal(size=(600, 6)).astype(np.float32)
    rows[dice.random(rows.shape) < 0.2] = np.nan
    labels = np.nansum(rows[:, :2], axis=1) + dice.normal(size=600) > 0
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 5, "base_score": 0.5, "nthread": 1},
        xgboost.DMatrix(rows, label=labels, nthread=1), num_boost_round=80,
    )  # fmt: skip
    theirs = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
    ours = ensemble_of(booster, range(6))
    for row, margin in zip(rows, theirs, strict=True):
        assert ours.margin([float(value) for value in row]) == float(margin)


def test_linear_terms_leave_out_what_is_unknown() -> None:
    term = LinearTerm(feature=1, mean=2.0, scale=0.5, weight=3.0)
    made = Ensemble(base_margin=0.25, linear=(term,))
    assert made.margin((9.0, 3.0)) == 0.25 + 6.0
    assert made.margin((9.0, math.nan)) == 0.25
    assert made.contributions((9.0, 3.0)) == {1: 6.0}


def test_contributions_of_a_tree_add_up() -> None:
    tree = Tree(
        feature=(0, -1, 1, -1, -1), threshold=(1.0, 0.0, 2.0, 0.0, 0.0), left=(1, -1, 3, -1, -1),
        right=(2, -1, 4, -1, -1), unknown_left=(True,) * 5, value=(0.0, -1.0, 0.0, 1.0, 3.0),
    )  # fmt: skip
    made = Ensemble(base_margin=0.0, trees=(tree,))
    assert made.contributions((5.0, 5.0)) == {0: 2.0 - 0.5, 1: 3.0 - 2.0}
    assert made.margin((5.0, 5.0)) == 0.5 + sum(made.contributions((5.0, 5.0)).values())


def test_a_saved_model_is_the_same_model(model: Predictor, tmp_path: Path) -> None:
    save(model, tmp_path / "m.json")
    again = load(tmp_path / "m.json")
    assert again == model
    runs = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(20, seed=3))])
    for run in runs:
        assert again.scores(run.steps) == model.scores(run.steps)


def test_the_file_tells_what_it_is_for(model: Predictor) -> None:
    assert model.population == "answerable_without_agent is not true"
    assert model.data.n_runs == 110
    assert model.calibration.n_success == model.data.n_success
    assert (model.calibration.false_stops + 1) / (model.calibration.n_success + 1) <= 0.05
    assert model.training["chosen"] == "hazard-rates-0.01"


def _other_checksum(body: dict[str, Any]) -> None:
    body["rule"]["threshold"] = 0.1


def _resealed(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    from agentcgroup.supervisor import predictor

    def apply(body: dict[str, Any]) -> None:
        body.pop("checksum")
        change(body)
        body["checksum"] = predictor._checksum(body)

    return apply


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_other_checksum, "checksum"),
        (lambda body: body.pop("checksum"), "checksum"),
        (lambda body: body.update(kind="pickle"), "kind"),
        (lambda body: body.update(schema_version=2), "schema_version"),
        (_resealed(lambda body: body["features"].update(set="half")), "features"),
        (_resealed(lambda body: body["features"].update(version=99)), "features"),
        (_resealed(lambda body: body["features"]["names"][0].reverse()), "features"),
        (_resealed(lambda body: body.update(ensembles=[])), "ensembles"),
        (_resealed(lambda body: body.update(extra=1)), "extra"),
        (
            _resealed(lambda body: body["ensembles"][0]["linear"][0].update(feature=400)),
            "ensembles",
        ),
        (
            _resealed(lambda body: body["ensembles"][0].update(trees=[
                {"feature": [0], "threshold": [0.0], "left": [0], "right": [0],
                 "unknown_left": [True], "value": [0.0]}])),
            "trees.0",
        ),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_name(
    model: Predictor, tmp_path: Path, change: Callable[[dict[str, Any]], None], field: str
) -> None:
    path = tmp_path / "m.json"
    save(model, path)
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(FormatError) as refused:
        load(path)
    assert field in refused.value.field
    assert refused.value.exit_code == 78


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04pickle", b"[1]", b'{"a":NaN}'])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(FormatError):
        load(tmp_path / "m")
    with pytest.raises(FormatError):
        load(tmp_path / "absent")


def test_a_truncated_model_is_refused(model: Predictor, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-50])
    with pytest.raises(FormatError, match="whole JSON"):
        load(tmp_path / "m")


def test_scores_explain_themselves(model: Predictor, tmp_path: Path) -> None:
    run = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(5))])[0]
    row = rows_of(feature_set("full"), run.steps)[0]
    why = model.why(0, row)
    assert {name for name, _, _ in why} <= set(FULL_CANDIDATES[0].columns)
    margin = model.ensembles[0].base_margin + sum(added for _, _, added in why)
    assert margin == pytest.approx(model.ensembles[0].margin(row))


def test_paper_models_score_the_steps_they_have(tmp_path: Path) -> None:
    runs = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(80))])
    paper = train(runs, feature_set("paper"), TrainingOptions(folds=3, draws=1))
    scores = next(paper.scores(run.steps) for run in runs if len(run.steps) == 11)
    assert None not in scores[:5]
    assert scores[5:] == [None] * 6


def test_too_few_runs_are_refused(tmp_path: Path) -> None:
    runs = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(6))])
    with pytest.raises(InvalidValueError, match="at least 5 runs of each end"):
        train(runs, feature_set("full"), HAZARD)


def test_shipped_models_are_whole_and_for_observe_only(tmp_path: Path) -> None:
    assert set(shipped_models()) == {"frames-qwen3-1.7b"}
    for name in shipped_models():
        shipped = load(name)
        assert shipped.observe_only
        assert shipped.name
        run = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(3))])[0]
        assert None not in shipped.scores(run.steps)
