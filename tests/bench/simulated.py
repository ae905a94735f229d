# SPDX-License-Identifier: Apache-2.0
"""The policy over recorded sessions in the host model: who is lost, who waits, how long it takes.

Runs anywhere in a minute or two, without a guest: the place to look before and after a change
of the policy. It says nothing about the kernel; isolation.py and groups.py measure there.

    python simulated.py [--data DIR] [--groups 6]

Without the authors' traces (--data or AGENTCGROUP_DATA) only the repository's own are played.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.replay.options import DeclaredIntent, Granularity, ReplayOptions
from agentcgroup.simulate.host import HostModel, Result
from agentcgroup.simulate.plans import AGENT_RESERVE_BYTES, session_plans
from agentcgroup.simulate.process import SessionPlan
from agentcgroup.simulate.world import World
from agentcgroup.trace.jobs import SessionJob, load_jobs
from agentcgroup.types.intents import Priority
from agentcgroup.units import MIB

OWN = Path(__file__).resolve().parents[2] / "traces"
TWINS = ("pytest.jsonl.gz", "numpy.jsonl.gz", "numpy.jsonl.gz")
PAPER = (
    "all_images_haiku/dask__dask-11628",
    "all_images_haiku/sigmavirus24__github3.py-673",
    "all_images_haiku/sigmavirus24__github3.py-673",
)
HIGH_LOW_LOW = (Priority.HIGH, Priority.LOW, Priority.LOW)
SHARE_OF_PEAKS = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description="The policy in the host model.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AGENTCGROUP_DATA"))
    parser.add_argument("--groups", type=int, default=6)
    asked = parser.parse_args()
    found: dict[str, Any] = {"own": own_twins()}
    if asked.data is not None:
        traces = Path(asked.data)
        if (traces / "agentcgroup-traces").is_dir():
            traces /= "agentcgroup-traces"
        found["paper"] = paper(traces)
        found["groups_by_tool"] = groups_by_tool(traces, asked.groups)
    print(json.dumps(found, indent=1))


def own_twins() -> dict[str, Any]:
    """A test suite of high and twice a numpy job of low priority, 900M to 1100M, 20x."""
    group = jobs(OWN, TWINS, HIGH_LOW_LOW, base_mib=50)
    cells = itertools.product((1100, 1050, 1000, 950, 900), (1024, 300))
    return told(
        [play(group, total, speed=20, growth_mib_per_s=growth) for total, growth in cells]
    )  # fmt: skip


def paper(traces: Path) -> dict[str, Any]:
    """The paper's three sessions at 1300M, 1100M and 900M; noisy intents with four seeds."""
    found = {}
    for intent, seeds in ((DeclaredIntent.NONE, (0,)), (DeclaredIntent.NOISY, (0, 1, 2, 3))):
        cells = itertools.product((1300, 1100, 900), (10.0, 50.0), (1024, 300), seeds)
        found[intent.value] = told(
            [
                play(
                    jobs(traces, PAPER, HIGH_LOW_LOW, base_mib=112, intent=intent, seed=seed),
                    total, speed=speed, growth_mib_per_s=growth,
                )
                for total, speed, growth, seed in cells
            ]
        )  # fmt: skip
    return found


def groups_by_tool(traces: Path, groups: int) -> dict[str, Any]:
    """Random groups, mixed priorities, one process a tool call, 10x. The host has room for
    what the agents themselves hold, and 60 % of the sum of the calls' peaks besides."""
    names = usable(traces)
    draw = random.Random(1)
    found = {}
    for intent, size in itertools.product((DeclaredIntent.NONE, DeclaredIntent.NOISY), (4, 8, 16)):
        runs, slowed, dense = [], [], []
        for number in range(groups):
            chosen = draw.sample(names, size)
            priorities = [draw.choice(list(Priority)) for _ in chosen]
            group = jobs(
                traces, chosen, priorities, granularity=Granularity.TOOL, intent=intent, seed=number
            )
            plans = session_plans(group, 10.0)
            room = room_bytes(plans)
            runs.append(World(room, plans).run(limit_s=600))
            slowed += high_slowdowns(plans, runs[-1])
            dense.append(sum(job.need_bytes for job in group) / room)
        found[f"{intent.value}, {size} sessions"] = {
            **told(runs),
            "high_slowdown_median": round(statistics.median(slowed), 3) if slowed else None,
            "high_slowdown_max": round(max(slowed), 3) if slowed else None,
            "density_median": round(statistics.median(dense), 3),
        }
    return found


def high_slowdowns(plans: Sequence[SessionPlan], run: Result) -> list[float]:
    """How long sessions of high priority took / how long their traces are."""
    planned_ns = {
        plan.name: max(call.begin_ns + call.levels[-1][0] for call in plan.calls)
        for plan in plans
        if plan.priority == Priority.HIGH.value
    }
    return [run.end_ns[name] / end_ns for name, end_ns in planned_ns.items() if name in run.end_ns]


def room_bytes(plans: Sequence[SessionPlan]) -> int:
    agents = sum(max((size for _, size in plan.agent_levels), default=0) for plan in plans)
    peaks = [max((call.peak_bytes for call in plan.calls), default=0) for plan in plans]
    calls = max(*peaks, int(SHARE_OF_PEAKS * sum(peaks)))
    return agents + len(plans) * AGENT_RESERVE_BYTES + calls


def usable(traces: Path) -> list[str]:
    """Runs with tool calls that lasted a minute."""
    found = []
    for directory in sorted(traces.glob("all_images_*/*")):
        name = str(directory.relative_to(traces))
        try:
            (job,) = jobs(traces, [name], [Priority.NORMAL], granularity=Granularity.TOOL)
        except (AgentCgroupError, ValueError):
            continue
        if job.calls and job.trace.duration_s > 60:
            found.append(name)
    return found


def jobs(
    directory: Path, names: Sequence[str], priorities: Sequence[Priority], *, base_mib: int = 0,
    granularity: Granularity = Granularity.SESSION, intent: DeclaredIntent = DeclaredIntent.NONE,
    seed: int = 0,
) -> list[SessionJob]:  # fmt: skip
    options = ReplayOptions(
        total_memory_bytes=1 << 40, base_memory_bytes=base_mib * MIB, granularity=granularity,
        intent=intent, seed=seed,
    )  # fmt: skip
    return load_jobs([directory / name for name in names], priorities, options)


def play(
    group: list[SessionJob], total_mib: int, *, speed: float, growth_mib_per_s: int
) -> Result:  # fmt: skip
    host = HostModel(growth_bytes_per_s=growth_mib_per_s * MIB)
    return World(total_mib * MIB, session_plans(group, speed), host=host).run()


def told(runs: Sequence[Result]) -> dict[str, Any]:
    calls = [call for run in runs for call in run.calls.values()]
    return {
        "runs": len(runs),
        "calls": len(calls),
        "lost": sum(len(run.lost) for run in runs),
        "reasons": sorted({call.reason for run in runs for call in run.lost}),
        "waited_s": round(sum(call.waited_ns for call in calls) / 1e9, 1),
        "frozen_s": round(sum(call.frozen_ns for call in calls) / 1e9, 1),
        "throttled_s": round(sum(call.throttled_ns for call in calls) / 1e9, 1),
        "makespan_s_median": round(statistics.median(run.makespan_ns for run in runs) / 1e9, 1),
        "makespan_s_max": round(max(run.makespan_ns for run in runs) / 1e9, 1),
    }


if __name__ == "__main__":
    main()
