# SPDX-License-Identifier: Apache-2.0
"""The supervisor on AgentStop's FRAMES runs (AGENTCGROUP_DATA), and controls on them."""

from __future__ import annotations

import gzip
import json
import os
import random
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from agentcgroup.supervisor.baselines import step_cap_stops
from agentcgroup.supervisor.decision import stopped_after
from agentcgroup.supervisor.evaluation import auc, figures
from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import FULL_CANDIDATES
from agentcgroup.supervisor.report import evaluation_report, judge
from agentcgroup.supervisor.table import Table, table_of
from agentcgroup.supervisor.training import TrainingOptions, scores_of, train_on
from agentcgroup.supervisor.trajectories import Run, population, read_runs

pytestmark = pytest.mark.data
DATA = Path(os.environ.get("AGENTCGROUP_DATA", "")) / "agentstop-frames/trajectories.jsonl.gz"
ONE_CANDIDATE = TrainingOptions(folds=5, candidates=FULL_CANDIDATES[1:2])
LABELS = (
    "success", "agent_answer", "reference_answer", "answerable_without_agent", "total_energy_mwh",
    "duration_s", "question",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return population(read_runs([DATA]))[0]


@pytest.fixture(scope="module")
def table(runs: list[Run]) -> Table:
    return table_of(runs, feature_set("full"))


def test_the_population_is_the_papers(runs: list[Run]) -> None:
    assert (len(runs), sum(bool(run.success) for run in runs)) == (575, 53)
    assert max(len(run.steps) for run in runs) == 11


@pytest.mark.parametrize(
    ("cap", "saved", "drop"),
    [(3, 0.484, 0.170), (5, 0.389, 0.132), (8, 0.257, 0.113), (10, 0.164, 0.113)],
)
def test_a_step_cap_saves_what_others_found(
    runs: list[Run], cap: int, saved: float, drop: float
) -> None:
    found = figures(runs, step_cap_stops(runs, cap))
    assert found.waste_saved == pytest.approx(saved, abs=5e-4)
    assert found.utility_drop == pytest.approx(drop, abs=5e-4)


def test_deleting_labels_and_totals_changes_no_decision(table: Table, tmp_path: Path) -> None:
    model = train_on(table, "", ONE_CANDIDATE)
    blind = tmp_path / "blind.jsonl"
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        kept = [
            {key: value for key, value in json.loads(line).items() if key not in LABELS}
            for line in file
        ]
    blind.write_text("".join(json.dumps(run) + "\n" for run in kept), encoding="utf-8")
    told, untold = (judge(model, read_runs([path])) for path in (DATA, blind))
    assert [one.stop for one in told] == [other.stop for other in untold]
    assert [one.scores for one in told] == [other.scores for other in untold]


def test_the_model_saves_within_its_bound_out_of_fold(table: Table) -> None:
    """Two repeats of the campaign's twenty (tests/bench/supervisor.py) with one candidate."""
    found = [cross_validated(table, seed) for seed in (0, 1)]
    assert statistics.fmean(saved for saved, _, _ in found) > 0.2
    assert statistics.fmean(drop for _, drop, _ in found) < 0.06


def test_permuted_labels_tell_nothing_apart(runs: list[Run], table: Table) -> None:
    """Nothing of the label leaks: no AUC without it, and most of the saving is gone. What is
    left stops the most expensive runs, for which no label is needed."""
    true_saved = cross_validated(table, 0)[0]
    permuted = []
    for seed in range(6):
        labels = [bool(run.success) for run in runs]
        random.Random(seed).shuffle(labels)
        mixed = tuple(replace(run, success=label) for run, label in zip(runs, labels, strict=True))
        permuted.append(
            cross_validated(Table(table.features, mixed, table.rows, ~np.array(labels)), seed)
        )
    areas = [area for _, _, area in permuted]
    assert abs(statistics.fmean(areas) - 0.5) < 0.06
    assert statistics.fmean(saved for saved, _, _ in permuted) < 0.6 * true_saved


def test_the_report_of_a_model_is_whole(runs: list[Run], table: Table) -> None:
    told = evaluation_report(train_on(table, "", ONE_CANDIDATE), runs)
    assert told["n_runs_fitted"] == told["n_runs"] == 575
    assert told["answer_now"]["charge_j"] / 3.6 == pytest.approx(55, abs=1)
    assert told["paper_basis"]["waste_saved"] < told["waste_saved"]
    assert len(told["auc"]) == 10


def cross_validated(table: Table, seed: int) -> tuple[float, float, float]:
    """Waste saved, utility drop, and AUC of the first step's score, each out of fold."""
    stops: list[int | None] = [None] * len(table.runs)
    first = [0.0] * len(table.runs)
    splitter = StratifiedKFold(5, shuffle=True, random_state=seed)
    for fitting, testing in splitter.split(table.fails, table.fails):
        model = train_on(table.subset(fitting.tolist()), "", replace(ONE_CANDIDATE, seed=seed))
        scores = scores_of(table.subset(testing.tolist()), model.ensembles)
        for index, told in zip(testing, scores, strict=True):
            stops[index] = stopped_after(told, model.rule)
            first[index] = told[0] or 0.0
    found = figures(table.runs, stops)
    fails = [score for score, failed in zip(first, table.fails, strict=True) if failed]
    wins = [score for score, failed in zip(first, table.fails, strict=True) if not failed]
    return found.waste_saved or 0.0, found.utility_drop or 0.0, auc(fails, wins) or 0.0
