# SPDX-License-Identifier: Apache-2.0
"""AgentStop's own protocol on its FRAMES runs: one classifier a step, stop at that step or never.

Five stratified folds (seed 42); in each, hyperparameters by the AUC over five inner folds. For
every step k: AUC over the runs with more than k steps, and waste saved (paper basis: whole-run
totals, W0 over all runs) against utility drop with two kinds of threshold for a target drop:
`optimistic`, read off the very fold it is scored on, as in the paper; `honest`, from the
training part's out-of-fold scores.

    python supervisor_paper.py [--data DIR] [--draws 8] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.model_selection import StratifiedKFold

from agentcgroup.supervisor.evaluation import auc, figures
from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import fit
from agentcgroup.supervisor.paper_features import PAPER_STEPS
from agentcgroup.supervisor.table import Table, table_of
from agentcgroup.supervisor.training import TrainingOptions, choose_at_step
from agentcgroup.supervisor.trajectories import Run, fingerprint, population, read_runs
from agentcgroup.supervisor.trees import probability

SEED, FOLDS = 42, 5
TARGETS = (0.0, 0.02, 0.05, 0.10, 0.20)
Scored = dict[int, float]


def main() -> None:
    parser = argparse.ArgumentParser(description="AgentStop's protocol.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AGENTCGROUP_DATA"))
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the data with --data or AGENTCGROUP_DATA")
    everyone = read_runs([Path(asked.data) / "agentstop-frames" / "trajectories.jsonl.gz"])
    runs, called = population(everyone)
    report = {
        "data": {"sha256": fingerprint(runs), "population": called, "n_runs": len(runs)},
        "protocol": {"folds": FOLDS, "seed": SEED, "draws": asked.draws},
        "steps": by_step(table_of(runs, feature_set("paper")), asked.draws),
    }
    text = json.dumps(report, indent=1)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def by_step(table: Table, draws: int) -> list[dict[str, Any]]:
    found = []
    for step in range(PAPER_STEPS):
        scored: Scored = {}
        stops = {(kind, t): {} for kind in ("optimistic", "honest") for t in TARGETS}
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
        for fitting, testing in splitter.split(table.fails, table.fails):
            held, tested = one_fold(table, step, fitting.tolist(), testing.tolist(), draws)
            scored |= tested
            for target in TARGETS:
                wins = [score for index, score in tested.items() if not table.fails[index]]
                total = sum(not table.fails[index] for index in testing)
                stopped(stops["optimistic", target], tested, threshold(wins, target, total), step)
                total = sum(not table.fails[index] for index in fitting)
                stopped(stops["honest", target], tested, threshold(held, target, total), step)
        found.append(told(table.runs, step, scored, stops))
        print(f"step {step + 1}: {found[-1]}", file=sys.stderr)
    return found


def one_fold(
    table: Table, step: int, fitting: list[int], testing: list[int], draws: int
) -> tuple[list[float], Scored]:
    """Out-of-fold scores of the training successes that go on after `step`, and the scores
    of the tested runs that do, by run."""
    part = table.subset(fitting)
    options = TrainingOptions(seed=SEED, folds=FOLDS, draws=draws)
    best, scores = choose_at_step(part, step, options)
    held = [
        score[step] or 0.0
        for score, fails in zip(scores, part.fails, strict=True)
        if not fails and len(score) > step + 1
    ]
    model = fit(part, step, best, SEED)
    return held, {
        index: probability(model.margin(table.rows[index][step]))
        for index in testing if len(table.rows[index]) > step + 1
    }  # fmt: skip


def threshold(wins: Sequence[float], target: float, total: int) -> float:
    """Lowest at which at most `target` of all `total` successes, of which these can be stopped
    here, are stopped."""
    allowed = math.floor(target * total + 1e-9)
    ordered = sorted(wins, reverse=True)
    return math.nextafter(ordered[allowed], math.inf) if allowed < len(ordered) else -math.inf


def stopped(into: dict[int, int], tested: Scored, level: float, step: int) -> None:
    into.update({index: step + 1 for index, score in tested.items() if score >= level})


def told(
    runs: Sequence[Run], step: int, scored: Scored, stops: dict[tuple[str, float], dict[int, int]]
) -> dict[str, Any]:
    fails = [score for index, score in scored.items() if not runs[index].success]
    wins = [score for index, score in scored.items() if runs[index].success]
    curves: dict[str, list[dict[str, float | None]]] = {"optimistic": [], "honest": []}
    for (kind, target), made in stops.items():
        figure = figures(runs, [made.get(index) for index in range(len(runs))], basis="paper")
        curves[kind].append(
            {"target": target, "drop": figure.utility_drop, "waste_saved": figure.waste_saved}
        )
    return {
        "k": step + 1,
        "n": len(scored),
        "n_success": len(wins),
        "auc": auc(fails, wins),
    } | curves


if __name__ == "__main__":
    main()
