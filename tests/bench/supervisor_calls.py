# SPDX-License-Identifier: Apache-2.0
"""Can a run's failure be told from its tool calls, on the AgentCgroup authors' runs?

A step is a finished tool call: the tokens of the message that asked for it, the tool and its
input (as shingles), and what a daemon would have seen: error, repetition, CPU, memory, silence.
The last message and outcome.json are not looked at, but for the label; runs without an issue
text are left out. AUC of failure at a call number and at a wall time, over the runs that go on
after it (the risk set), per set: out of fold by task, mean of repeats, bootstrap over runs.
Beside it: the number of calls so far, and how often the run repeats itself.

    python supervisor_calls.py [--data DIR] [--repeats 10] [--out FILE]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from agentcgroup.supervisor.evaluation import auc, percentiles
from agentcgroup.supervisor.features import feature_set, rows_of
from agentcgroup.supervisor.fitting import Candidate, fit
from agentcgroup.supervisor.full_features import FULL_NAMES
from agentcgroup.supervisor.signals import HostSignals
from agentcgroup.supervisor.sketch import shingles_of
from agentcgroup.supervisor.table import Table
from agentcgroup.supervisor.trajectories import Run
from agentcgroup.supervisor.trees import probability
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.model import SessionTrace
from agentcgroup.types.steps import StepReport
from agentcgroup.units import GIB

SETS = ("all_images_local", "all_images_haiku")
CALLS = (3, 5, 10, 15, 20, 30, 40, 60)
SECONDS = (30, 60, 120, 300, 600)
FOLDS, RESAMPLES = 5, 2000
BUDGET_BYTES = 4 * GIB
FEWEST = 4  # of either end, for an AUC to be worth printing
CANDIDATES = (
    Candidate("hazard", "hazard", (), False, {"C": 0.01}),
    Candidate(
        "trees", "trees", (), False,
        {"max_depth": 2, "eta": 0.1, "subsample": 0.7, "min_child_weight": 5, "trees": 60},
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A run as a supervisor would have seen it; `ends_s` of each call, from the first one."""

    run: Run
    host: tuple[HostSignals, ...]
    ends_s: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Failure from tool calls.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AGENTCGROUP_DATA"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("name the data with --data or AGENTCGROUP_DATA")
    folder = Path(asked.data) / "agentcgroup-traces"
    report = {"folds": FOLDS, "repeats": asked.repeats, "sets": {}}
    for name in SETS:
        tasks = [task for path in sorted((folder / name).iterdir()) if (task := read_task(path))]
        report["sets"][name] = of_set(tasks, asked.repeats)
    text = json.dumps(report, indent=1)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


# --- reading


def read_task(path: Path) -> Task | None:
    """None: no label, no issue text, or no trace of its calls."""
    outcome = json.loads((path / "outcome.json").read_text(encoding="utf-8"))
    if outcome["success"] is None or outcome["issue_text_missing"]:
        return None
    times, messages = lines(path / "tool_times.jsonl.gz"), lines(path / "usage.jsonl.gz")
    if not times or not messages:
        return None
    inputs = {
        call["id"]: call["input"]
        for call in json.loads(gzip.decompress((path / "tool_calls.json.gz").read_bytes()))
    }
    trace = load_session_trace(path)
    begun = epoch_s(times[0]["start"])
    asked_by = {call: message for message in messages for call in message["tool_use_ids"]}
    reports, host, ends = [], [], []
    known: set[str] = set()
    last_end = begun
    for at, call in enumerate(times):
        said = json.dumps(inputs.get(call["id"]), sort_keys=True)
        first = epoch_s(call["start"]) >= last_end
        reports.append(step_of(at, call, said, asked_by.get(call["id"]) if first else None))
        repeated = int(call["tool"] + said in known)
        host.append(seen_by_host(call, repeated, trace, last_end))
        known.add(call["tool"] + said)
        last_end = max(last_end, epoch_s(call["end"]))
        ends.append(last_end - begun)
    run = Run(path.name, tuple(reports), (None,) * len(reports), None, outcome["success"], None)
    return Task(run, tuple(host), tuple(ends))


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines() if line]


def epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def step_of(at: int, call: dict[str, Any], said: str, message: dict[str, Any] | None) -> StepReport:
    """Calls that a message asked for together share its tokens: the first has them."""
    prompt = 0
    if message is not None:
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        prompt = sum(message.get(name) or 0 for name in names)
    output = (message or {}).get("output_tokens") or 0
    return StepReport(
        step=at, prompt_tokens=prompt, completion_tokens=output,
        shingles=sorted(shingles_of(said)), tool_calls=[call["tool"]],
    )  # fmt: skip


def seen_by_host(
    call: dict[str, Any], repeated: int, trace: SessionTrace, last_end: float
) -> HostSignals:
    """Samples are a second apart: of a call shorter than that those around it."""
    start_s, end_s = (epoch_s(call[name]) - trace.epoch_s for name in ("start", "end"))
    held = [size for at_s, size in trace.samples if start_s - 1 <= at_s <= end_s + 1]
    used = [cpu_s for at_s, cpu_s in trace.cpu_samples if start_s - 1 <= at_s <= end_s + 1]
    return HostSignals(
        calls=1,
        failed=int(call["is_error"] is True),
        repeated=repeated,
        cpu_s=used[-1] - used[0] if used else None,
        peak_share=max(held) / BUDGET_BYTES if held else None,
        silent_s=max(0.0, epoch_s(call["start"]) - last_end),
    )


# --- judging


def of_set(tasks: Sequence[Task], repeats: int) -> dict[str, Any]:
    features = feature_set("full")
    rows = tuple(tuple(rows_of(features, t.run.steps, t.host)) for t in tasks)
    fails = np.array([not task.run.success for task in tasks])
    table = Table(features, tuple(task.run for task in tasks), rows, fails)
    scores: dict[str, list[list[float]]] = {
        candidate.name: out_of_fold(table, candidate, repeats) for candidate in CANDIDATES
    }
    repeated = FULL_NAMES.index("repeats")
    scores["calls_so_far"] = [[float(at) for at in range(len(run))] for run in rows]
    scores["repeats_so_far"] = [[row[repeated] for row in run] for run in rows]
    found: dict[str, Any] = {"n_runs": len(tasks), "n_success": int((~fails).sum())}
    for name, told in scores.items():
        found[name] = {
            "by_call": [at_risk(fails, picked_by_call(told, k), {"calls": k}) for k in CALLS],
            "by_seconds": [
                at_risk(fails, picked_by_time(tasks, told, t), {"seconds": t}) for t in SECONDS
            ],
        }
    return found


def out_of_fold(table: Table, candidate: Candidate, repeats: int) -> list[list[float]]:
    """Mean score of every step over the repeats, by models that had not seen its task."""
    sums = [[0.0] * len(run) for run in table.rows]
    for seed in range(repeats):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for fitting, testing in splitter.split(table.fails, table.fails):
            model = fit(table.subset(fitting.tolist()), 0, candidate, seed)
            for index in testing:
                for at, row in enumerate(table.rows[index]):
                    sums[index][at] += probability(model.margin(row)) / repeats
    return sums


def picked_by_call(told: Sequence[Sequence[float]], calls: int) -> list[float | None]:
    return [scores[calls - 1] if len(scores) > calls else None for scores in told]


def picked_by_time(
    tasks: Sequence[Task], told: Sequence[Sequence[float]], seconds: float
) -> list[float | None]:
    found: list[float | None] = []
    for task, scores in zip(tasks, told, strict=True):
        done = sum(end <= seconds for end in task.ends_s)
        found.append(scores[done - 1] if 0 < done < len(scores) else None)
    return found


def at_risk(fails: Any, scores: Sequence[float | None], where: dict[str, float]) -> dict[str, Any]:
    going = [index for index, score in enumerate(scores) if score is not None]
    lost = [index for index in going if fails[index]]
    told: dict[str, Any] = {**where, "n": len(going), "n_fail": len(lost), "auc": None}
    if min(len(lost), len(going) - len(lost)) < FEWEST:
        return told
    area: Callable[[Sequence[int]], float | None] = lambda chosen: auc(  # noqa: E731
        [scores[i] or 0.0 for i in chosen if fails[i]],
        [scores[i] or 0.0 for i in chosen if not fails[i]],
    )
    dice = np.random.default_rng(0)
    drawn = [area(dice.choice(going, len(going)).tolist()) for _ in range(RESAMPLES)]
    told["auc"] = area(going)
    told["auc_ci95"] = percentiles([value for value in drawn if value is not None])
    return told


if __name__ == "__main__":
    main()
