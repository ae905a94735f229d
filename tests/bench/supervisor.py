# SPDX-License-Identifier: Apache-2.0
"""How much a trained supervisor saves and what it costs, on runs it was not trained on.

Repeated stratified 5-fold cross-validation over runs. Choice of candidate, fit and threshold
(conformal risk control at 5 %) are made in the training part of each fold alone; the plain
scores of supervisor/baselines.py and AgentStop's features get the same threshold rule.

    python supervisor.py [--data DIR] [--repeats 20] [--draws 3] [--methods NAME…]
                         [--permutations 0] [--out FILE]

DIR holds agentstop-frames/trajectories.jsonl.gz (or AGENTCGROUP_DATA names it). Prints and
writes JSON: per method the pooled false stops of every repeat, the mean drop and waste saved
with a bootstrap over runs, and the paired difference of `full` to it. `answer_now`: every stop
asks for an answer first and costs the training part's median of forced last steps. With
`--permutations` also what `full` and `random` do with labels that were shuffled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from agentcgroup.supervisor.baselines import BASELINES
from agentcgroup.supervisor.calibration import calibrate
from agentcgroup.supervisor.decision import DecisionRule, run_level_score, stopped_after
from agentcgroup.supervisor.evaluation import answer_charge_j
from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import FULL_CANDIDATES
from agentcgroup.supervisor.table import Table, table_of
from agentcgroup.supervisor.training import TrainingOptions, scores_of, train_on
from agentcgroup.supervisor.trajectories import Run, fingerprint, population, read_runs

FOLDS = 5
MAX_DROP = 0.05
RESAMPLES = 5000
Stops = list[int | None]
Method = Callable[[list[int], list[int], int], Stops]


def main() -> None:
    parser = argparse.ArgumentParser(description="Cross-validated supervisor.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AGENTCGROUP_DATA"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--draws", type=int, default=3, help="of the paper's search, per step")
    parser.add_argument("--methods", nargs="+", help="default: all; full is always among them")
    parser.add_argument("--permutations", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the data with --data or AGENTCGROUP_DATA")
    runs, called = population(
        read_runs([Path(asked.data) / "agentstop-frames" / "trajectories.jsonl.gz"])
    )
    full = table_of(runs, feature_set("full"))
    methods = methods_for(runs, full, asked.draws, asked.methods)
    stops = campaign(runs, methods, asked.repeats)
    report = {
        "data": {"sha256": fingerprint(runs), "population": called, "n_runs": len(runs)},
        "protocol": {
            "repeats": asked.repeats, "folds": FOLDS, "seeds": list(range(asked.repeats)),
            "max_drop": MAX_DROP, "bound": "expected", "paper_draws": asked.draws,
            "candidates": [candidate.name for candidate in FULL_CANDIDATES],
        },
        "methods": told(runs, stops),
        "permuted": [permuted(full, seed) for seed in range(asked.permutations)],
    }  # fmt: skip
    text = json.dumps(report, indent=1)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def methods_for(
    runs: Sequence[Run], full: Table, draws: int, wanted: Sequence[str] | None = None
) -> dict[str, Method]:
    methods: dict[str, Method] = {
        name: plain(runs, [score(run) for run in runs]) for name, score in BASELINES.items()
    }
    options = TrainingOptions(max_drop=MAX_DROP)
    spending = tuple(c for c in FULL_CANDIDATES if c.name.startswith("hazard-rates-0"))
    methods["full"] = trained(full, options)
    methods["full_rates_only"] = trained(full, replace(options, candidates=spending))
    plainly = tuple(replace(candidate, weighted=False) for candidate in FULL_CANDIDATES)
    methods["full_unweighted"] = trained(full, replace(options, candidates=plainly))
    if wanted is None or "paper" in wanted:
        paper = table_of(runs, feature_set("paper"))
        methods["paper"] = trained(paper, replace(options, draws=draws, folds=FOLDS))
    return {
        name: method for name, method in methods.items()
        if wanted is None or name in wanted or name == "full"
    }  # fmt: skip


def permuted(table: Table, seed: int) -> dict[str, Any]:
    """One repeat with the labels of all runs shuffled: drop and waste of full (also
    without energies as weights), of random and of a rule that needs no label, which stops what has
    spent the most."""
    labels = [bool(run.success) for run in table.runs]
    random.Random(seed).shuffle(labels)
    runs = tuple(
        replace(run, success=label) for run, label in zip(table.runs, labels, strict=True)
    )  # fmt: skip
    mixed = Table(table.features, runs, table.rows, ~np.array(labels))
    methods = methods_for(runs, mixed, 0, ["random", "spending", "full_unweighted"])
    found = told(runs, campaign(runs, methods, 1))
    return {
        name: {"drop": m["utility_drop"], "waste_saved": m["steps"]["waste_saved"]}
        for name, m in found.items()
    }


def plain(runs: Sequence[Run], scores: Sequence[Sequence[float | None]]) -> Method:
    """A score that needs no training: only its threshold comes from the training part."""

    def stops(fitting: list[int], testing: list[int], seed: int) -> Stops:
        rule = DecisionRule()
        held = [run_level_score(scores[index], rule) for index in fitting if runs[index].success]
        made = calibrate(held, max_drop=MAX_DROP)
        ready = DecisionRule(threshold=min(made.threshold, sys.float_info.max))
        return [stopped_after(scores[index], ready) for index in testing]

    return stops


def trained(table: Table, options: TrainingOptions) -> Method:
    def stops(fitting: list[int], testing: list[int], seed: int) -> Stops:
        model = train_on(table.subset(fitting), "", replace(options, seed=seed))
        scores = scores_of(table.subset(testing), model.ensembles)
        return [stopped_after(told, model.rule) for told in scores]

    return stops


def campaign(
    runs: Sequence[Run], methods: dict[str, Method], repeats: int
) -> dict[str, list[Stops]]:
    """For every method and repeat, where each run was stopped by a model that had not seen it."""
    labels = np.array([bool(run.success) for run in runs])
    found: dict[str, list[Stops]] = {name: [] for name in methods}
    for seed in range(repeats):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        parts = [(a.tolist(), b.tolist()) for a, b in splitter.split(labels, labels)]
        for name, method in methods.items():
            began = time.monotonic()
            stops: Stops = [None] * len(runs)
            for fitting, testing in parts:
                for index, stop in zip(testing, method(fitting, testing, seed), strict=True):
                    stops[index] = stop
            found[name].append(stops)
            print(f"repeat {seed} {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def told(runs: Sequence[Run], stops: dict[str, list[Stops]]) -> dict[str, Any]:
    success = np.array([bool(run.success) for run in runs])
    dice = np.random.default_rng(0)
    drawn = dice.integers(0, len(runs), size=(RESAMPLES, len(runs)))
    ledgers = {basis: wasted_j(runs, basis) for basis in ("steps", "paper")}
    charges = [charges_j(runs, seed) for seed in range(len(next(iter(stops.values()))))]
    report: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    for name, repeats in stops.items():
        stopped = np.array([[stop is not None for stop in repeat] for repeat in repeats])
        false_stops = (stopped & success).sum(axis=1)
        report[name] = {
            "false_stops": false_stops.tolist(),
            "n_success": int(success.sum()),
            "stopped": stopped.sum(axis=1).tolist(),
            "utility_drop": float(false_stops.mean() / success.sum()),
            "utility_drop_ci95": interval(
                (stopped & success).mean(axis=0)[drawn].sum(axis=1) / success[drawn].sum(axis=1)
            ),
        }
        charged = np.array([
            [0.0 if stop is None else cost for stop, cost in zip(repeat, costs, strict=True)]
            for repeat, costs in zip(repeats, charges, strict=True)
        ])  # fmt: skip
        whole = np.array([saved_j(runs, repeat, ledgers["steps"]) for repeat in repeats])
        asked = (whole - charged).mean(axis=0)
        report[name]["answer_now"] = {
            "waste_saved": float(asked.sum() / ledgers["steps"].sum()),
            "waste_saved_ci95": interval(
                asked[drawn].sum(axis=1) / ledgers["steps"][drawn].sum(axis=1)
            ),
        }
        for basis, wasted in ledgers.items():
            saved = np.array([saved_j(runs, repeat, wasted) for repeat in repeats])
            share = saved.mean(axis=0)[drawn].sum(axis=1) / wasted[drawn].sum(axis=1)
            shares[name, basis] = share
            report[name][basis] = {
                "waste_saved": float(saved.sum() / wasted.sum() / len(repeats)),
                "waste_saved_ci95": interval(share),
                "by_repeat": (saved.sum(axis=1) / wasted.sum()).tolist(),
            }
    for name in stops:
        report[name]["full_minus_this_ci95"] = {
            basis: interval(shares["full", basis] - shares[name, basis]) for basis in ledgers
        }
    return report


def charges_j(runs: Sequence[Run], seed: int) -> list[float]:
    """Of each run: the median of forced last steps in the part that trains for it."""
    labels = np.array([bool(run.success) for run in runs])
    found = [0.0] * len(runs)
    for fitting, testing in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(
        labels, labels
    ):
        cost = answer_charge_j([runs[index] for index in fitting]) or 0.0
        for index in testing:
            found[index] = cost
    return found


def wasted_j(runs: Sequence[Run], basis: str) -> Any:
    """Energy of failed runs: of their steps, or whole-run totals as in the paper."""
    totals = [
        sum(energy or 0.0 for energy in run.step_energy_j)
        if basis == "steps"
        else run.total_energy_j or 0.0
        for run in runs
    ]
    return np.array([0.0 if run.success else t for run, t in zip(runs, totals, strict=True)])


def saved_j(runs: Sequence[Run], stops: Stops, wasted: Any) -> list[float]:
    """Of each run; negative where a success was stopped, by what it had spent."""
    return [
        0.0 if stop is None else float(whole) - sum(e or 0.0 for e in run.step_energy_j[:stop])
        for run, stop, whole in zip(runs, stops, wasted, strict=True)
    ]


def interval(values: Any) -> list[float]:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


if __name__ == "__main__":
    main()
