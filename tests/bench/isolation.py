# SPDX-License-Identifier: Apache-2.0
"""The paper's isolation scenarios: one session of high and two of low priority on too little
memory. Survival, kills and waits, the high one's allocation latency, the makespan.

Runs inside a guest with the authors' traces shared into it. Every round plays each row once,
shuffled, in one boot:

    none, static                at the total under test
    files, events, memcg_ops    agentcgroup at the same total, with this layer and those before it
    sched_ext, gate             events with our scheduler, without and with its memory gate
    alone                       each session by itself
    floor                       no daemon, no memory limit that could bind, and the CPU weights
                                that the daemon gives: what sharing the CPU alone costs

`memcg_ops` loads the optional module; it, `sched_ext` and `gate` are rows when asked for.

    python isolation.py TRACES [--total 1100M] [--speed 10] [--intent none] [--rounds 10]
                        [--rows …] [--out FILE]

Prints one JSON object; --out keeps every run as it was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import subprocess
from pathlib import Path
from typing import Any

from agentcgroup.daemon.layout import SESSION_CPU_WEIGHT
from agentcgroup.replay.driver import run_policy
from agentcgroup.replay.options import DeclaredIntent, Policy, ReplayOptions
from agentcgroup.trace.jobs import SessionJob, make_jobs
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.results import RunResult
from agentcgroup.types.intents import Priority
from agentcgroup.units import parse_size_bytes

HIGH = "all_images_haiku/dask__dask-11628"
LOW = "all_images_haiku/sigmavirus24__github3.py-673"
PRIORITIES = (Priority.HIGH, Priority.LOW, Priority.LOW)
FLOOR = "floor"
LAYER_SETS = {
    "files": "files",
    "events": "files,events",
    "memcg_ops": "files,events,memcg_ops",
    "sched_ext": "files,events,sched_ext",
    "gate": "files,events,gate,sched_ext",
}
DEFAULT_ROWS = ("none", "static", "files", "events", "alone", FLOOR)
ROWS = (*DEFAULT_ROWS, "memcg_ops", "sched_ext", "gate")
MODULE = "/opt/agentcgroup/kmod/agentcgroup_memcg.ko"
RESAMPLES = 2000
# The paper's processes are Python, which holds some 12 MiB beside its base memory; ours hold
# nothing, and would have it easier.
BASE_BYTES = (100 + 12) << 20


def main() -> None:
    asked = arguments()
    total_bytes = parse_size_bytes(asked.total)
    traces = [load_session_trace(asked.traces / name) for name in (HIGH, LOW, LOW)]
    rows = asked.rows
    if "memcg_ops" in rows:
        subprocess.run(["insmod", MODULE], check=True)
    draw = random.Random(asked.seed)
    measured: dict[str, list[RunResult]] = {row: [] for row in rows}
    for number in range(1, asked.rounds + 1):
        # What `noisy` sessions declare is drawn anew.
        options = options_for(asked, total_bytes, asked.seed + number)
        jobs = make_jobs(traces, PRIORITIES, options)
        for row in draw.sample(rows, len(rows)):
            measured[row].append(play(row, jobs, options, number))
        keep(asked.out, measured)
    print(json.dumps(summary(asked, measured), indent=1))


def options_for(asked: argparse.Namespace, total_bytes: int, seed: int) -> ReplayOptions:
    return ReplayOptions(
        total_memory_bytes=total_bytes,
        base_memory_bytes=BASE_BYTES,
        speed=asked.speed,
        intent=DeclaredIntent(asked.intent),
        seed=seed,
    )


def play(row: str, jobs: list[SessionJob], options: ReplayOptions, number: int) -> RunResult:
    if row in LAYER_SETS:
        layered = dataclasses.replace(options, layers=LAYER_SETS[row])
        return run_policy(Policy.AGENTCGROUP, jobs, layered, run=number)
    if row != FLOOR:
        return run_policy(Policy(row), jobs, options, run=number)
    room = dataclasses.replace(
        options,
        total_memory_bytes=2 * sum(job.need_bytes for job in jobs),
        cpu_weights=tuple(SESSION_CPU_WEIGHT[priority] for priority in Priority),
    )
    return run_policy(Policy.NONE, jobs, room, run=number)


def summary(asked: argparse.Namespace, measured: dict[str, list[RunResult]]) -> dict[str, Any]:
    rows = {row: row_summary(runs) for row, runs in measured.items() if runs}
    return {
        "total": asked.total, "speed": asked.speed, "intent": asked.intent,
        "rounds": asked.rounds, "rows": rows,
        "over": {
            row: {
                base: against(measured[row], measured[base])
                for base in ("alone", FLOOR)
                if base in measured
            }
            for row in LAYER_SETS
            if row in measured
        },
    }  # fmt: skip


def row_summary(runs: list[RunResult]) -> dict[str, Any]:
    sessions = [session for run in runs for session in run.sessions]
    high = [session for session in sessions if session.priority is Priority.HIGH]
    latencies = sorted(value for session in high for value in session.latencies_ms)
    return {
        "survived": f"{sum(s.survived for s in sessions)}/{len(sessions)}",
        "high_survived": f"{sum(s.survived for s in high)}/{len(high)}",
        "oom_kills": sum(s.oom_kills or 0 for s in sessions),
        "policy_kills": sum(s.policy_kills for s in sessions),
        "makespan_s": statistics.median(run.makespan_s for run in runs),
        "high_p95_ms": latencies[int(0.95 * len(latencies))] if latencies else None,
        "high_pressure_some_ms": mean([s.pressure_some_ms for s in high]),
        "waited_ms": mean([s.waited_ms for s in sessions]),
        "throttled_ms": mean([s.throttled_ms for s in sessions]),
        "frozen_ms": mean([s.frozen_ms for s in sessions]),
    }


def against(ours: list[RunResult], theirs: list[RunResult]) -> dict[str, Any]:
    """Medians over the rounds of this run / that run, with a bootstrap interval of 95 %."""
    pairs = list(zip(ours, theirs, strict=True))
    latency = [
        mine / base
        for a, b in pairs
        if (mine := high_p95_ms(a)) is not None and (base := high_p95_ms(b))
    ]
    makespan = [a.makespan_s / b.makespan_s for a, b in pairs]
    return {"high_p95": interval(latency), "makespan": interval(makespan)}


def high_p95_ms(run: RunResult) -> float | None:
    return next(s.p95_ms for s in run.sessions if s.priority is Priority.HIGH)


def interval(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return {
        "median": statistics.median(values),
        "low": medians[int(0.025 * RESAMPLES)],
        "high": medians[int(0.975 * RESAMPLES)],
    }


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def keep(path: Path | None, measured: dict[str, list[RunResult]]) -> None:
    if path is not None:
        raw = {
            row: [
                {**run.as_json(), "high_latencies_ms": [
                    s.latencies_ms for s in run.sessions if s.priority is Priority.HIGH
                ]}
                for run in runs
            ]
            for row, runs in measured.items()
        }  # fmt: skip
        path.write_text(json.dumps(raw), encoding="utf-8")


def rows_of(text: str) -> list[str]:
    found = text.split(",")
    if unknown := set(found) - set(ROWS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(ROWS)}")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The paper's isolation scenarios.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--total", default="1100M")
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--intent", default="none", choices=["none", "noisy", "peak"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", type=rows_of, default=list(DEFAULT_ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
