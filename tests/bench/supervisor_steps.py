# SPDX-License-Identifier: Apache-2.0
"""What the daemon's supervisor takes for a step, by feature set, on recorded runs.

    AGENTCGROUP_DATA=… python supervisor_steps.py [--repeats 3]

Features and score of every step, in the order they were recorded, in CPU-ms of this process; the
model is one that was trained on the same runs, for its size, not for its verdicts. Prints one
JSON object with p50, p99 and the largest of each set, and each as a ratio to a plain JSON parse of
the same step, which any daemon has to do.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import FULL_CANDIDATES
from agentcgroup.supervisor.online import RunWatch
from agentcgroup.supervisor.predictor import Predictor
from agentcgroup.supervisor.rules import RuleLimits
from agentcgroup.supervisor.table import table_of
from agentcgroup.supervisor.training import TrainingOptions, train_on
from agentcgroup.supervisor.trajectories import Run, population, read_runs

DATA = Path(os.environ.get("AGENTCGROUP_DATA", "")) / "agentstop-frames/trajectories.jsonl.gz"
FULL = FULL_CANDIDATES[:1]
SETS = ("paper", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs = population(read_runs([DATA]))[0]
    parse_ms = [ms for run in runs for ms in parsed(run)]
    base = summary(parse_ms)
    found: dict[str, Any] = {"runs": len(runs), "steps": len(parse_ms), "json_parse": base}
    for name in SETS:
        predictor = trained(runs, name)
        taken = [
            ms for _ in range(options.repeats) for run in runs for ms in judged(run, predictor)
        ]
        mine = summary(taken)
        found[name] = {**mine, "p50_over_parse": mine["p50_ms"] / base["p50_ms"]}
    print(json.dumps(found, indent=1))


def trained(runs: list[Run], name: str) -> Predictor:
    table = table_of(runs, feature_set(name))
    return train_on(table, "all runs", TrainingOptions(folds=5, draws=1, candidates=FULL))


def judged(run: Run, predictor: Predictor) -> list[float]:
    watch = RunWatch(predictor, RuleLimits())
    taken = []
    for step in run.steps:
        before_ns = time.process_time_ns()
        watch.report(step)
        taken.append((time.process_time_ns() - before_ns) / 1e6)
    return taken


def parsed(run: Run) -> list[float]:
    taken = []
    for step in run.steps:
        text = step.model_dump_json()
        before_ns = time.process_time_ns()
        json.loads(text)
        taken.append((time.process_time_ns() - before_ns) / 1e6)
    return taken


def summary(taken_ms: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(taken_ms, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": max(taken_ms)}


if __name__ == "__main__":
    main()
