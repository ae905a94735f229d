# SPDX-License-Identifier: Apache-2.0
"""Random groups of recorded sessions, mixed priorities, one process a tool call, on a host that
is too small for their peaks: who is lost, who waits, how much slower, how dense.

Runs inside a guest with the authors' traces shared into it (simulated.py plays the same groups
in the host model, many more of them). The host has room for what the agents themselves hold,
and 60 % of the sum of the calls' peaks besides: with less than that the agents alone are too
much in most groups.

    python groups.py TRACES [--sizes 4,8] [--groups 4] [--speed 4] [--intent none] [--out FILE]

Each group is also played without a daemon on a host with room for all, with the CPU weights that
the daemon gives: what the machine alone costs, and the emulated one costs much.

Prints one JSON object. `density`: sum of the sessions' static peaks / memory of the host.
`slowdown`: how long a session took / how long it took where there was room.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import isolation  # noqa: E402
from simulated import room_bytes, usable  # noqa: E402

from agentcgroup.replay.driver import run_policy  # noqa: E402
from agentcgroup.replay.options import (  # noqa: E402
    DeclaredIntent,
    Granularity,
    Policy,
    ReplayOptions,
)
from agentcgroup.simulate.plans import session_plans  # noqa: E402
from agentcgroup.trace.jobs import SessionJob, load_jobs  # noqa: E402
from agentcgroup.trace.results import RunResult, SessionResult  # noqa: E402
from agentcgroup.types.intents import Priority  # noqa: E402


def main() -> None:
    asked = arguments()
    names = usable(asked.traces)
    draw = random.Random(asked.seed)
    played: list[dict[str, Any]] = []
    for size in asked.sizes:
        for number in range(asked.groups):
            chosen = draw.sample(names, size)
            priorities = [draw.choice(list(Priority)) for _ in chosen]
            played.append(play(asked, chosen, priorities, number))
            told = json.dumps(summary(played[-1:]))
            print(f"{size} sessions, group {number + 1}: {told}", file=sys.stderr, flush=True)
            if asked.out is not None:
                asked.out.write_text(json.dumps(played), encoding="utf-8")
    rows = {
        f"{size} sessions": summary([run for run in played if run["size"] == size])
        for size in asked.sizes
    }
    print(json.dumps({"intent": asked.intent, "speed": asked.speed, "groups": rows}, indent=1))


def play(
    asked: argparse.Namespace, names: Sequence[str], priorities: Sequence[Priority], number: int
) -> dict[str, Any]:
    options = ReplayOptions(
        total_memory_bytes=1 << 40, speed=asked.speed, base_memory_bytes=0,
        granularity=Granularity.TOOL, intent=DeclaredIntent(asked.intent), seed=number,
    )  # fmt: skip
    jobs = load_jobs([asked.traces / name for name in names], priorities, options)
    total = room_bytes(session_plans(jobs, asked.speed))
    floor = isolation.play(isolation.FLOOR, jobs, options, number)
    sized = dataclasses.replace(options, total_memory_bytes=total)
    run = run_policy(Policy.AGENTCGROUP, jobs, sized, run=number)
    return {"size": len(jobs), **figures(jobs, run, floor, total)}


def figures(
    jobs: Sequence[SessionJob], run: RunResult, floor: RunResult, total_bytes: int
) -> dict[str, Any]:
    floor_s = {session.name: session.completion_s for session in floor.sessions}
    return {
        "density": sum(job.need_bytes for job in jobs) / total_bytes,
        "sessions": [
            {
                **session.as_json(),
                "floor_s": floor_s[session.name],
                "slowdown": slowdown(session, floor_s[session.name]),
            }
            for session in run.sessions
        ],
    }


def slowdown(session: SessionResult, floor_s: float | None) -> float | None:
    if session.completion_s is None or floor_s is None:
        return None
    return session.completion_s / floor_s


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sessions = [session for run in runs for session in run["sessions"]]
    high = [s["slowdown"] for s in sessions if s["priority"] == "high" and s["slowdown"]]
    return {
        "runs": len(runs),
        "agents_lost": sum(not s["survived"] for s in sessions),
        "calls": sum(s["calls"] for s in sessions),
        "calls_lost": sum(s["calls_lost"] for s in sessions),
        "policy_kills": sum(s["policy_kills"] for s in sessions),
        "waited_s": total_s(sessions, "waited_ms"),
        "throttled_s": total_s(sessions, "throttled_ms"),
        "frozen_s": total_s(sessions, "frozen_ms"),
        "high_slowdown": {"median": statistics.median(high), "max": max(high)} if high else None,
        "density_median": statistics.median(run["density"] for run in runs),
    }


def total_s(sessions: Sequence[dict[str, Any]], field: str) -> float:
    return sum(session[field] or 0 for session in sessions) / 1e3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Random groups on too small a host.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[4])
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--speed", type=float, default=4.0)
    parser.add_argument("--intent", default="none", choices=["none", "noisy", "peak"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
