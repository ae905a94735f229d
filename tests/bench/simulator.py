# SPDX-License-Identifier: Apache-2.0
"""How fast the simulator is, and whether its memory stays the same in longer runs.

    python simulator.py [--data DIR] [--agents 1000] [--hours 1] [--memory-gib 1024] [--mixed]

Agents play recorded sessions one after another, a process a tool call, on one host whose
memory the daemon's own policy divides. Without the authors' traces (--data or
AGENTCGROUP_DATA) the repository's own are played. Prints one JSON object: seconds of CPU,
largest resident size after a quarter of the time and after all of it (each in a process
of its own), and what happened.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.simulate.fleet import fleet
from agentcgroup.simulate.host import HostModel
from agentcgroup.simulate.run import SimulationOptions
from agentcgroup.simulate.world import World
from agentcgroup.trace.jobs import Granularity, SessionJob, make_jobs
from agentcgroup.trace.load import load_session_trace
from agentcgroup.types.intents import Priority
from agentcgroup.units import GIB, MIB

OWN = Path(__file__).resolve().parents[2] / "traces"
STEP_BYTES = 4 * MIB


def main() -> None:
    asked = arguments()
    if asked.once:
        print(json.dumps(once(asked)))
        return
    whole = child(asked, asked.hours)
    quarter = child(asked, asked.hours / 4)
    print(json.dumps({"whole": whole, "quarter": quarter}, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the simulator.")
    parser.add_argument("--data", type=Path, default=os.environ.get("AGENTCGROUP_DATA"))
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--memory-gib", type=int, default=1024)
    parser.add_argument("--mixed", action="store_true", help="priorities high, normal, low")
    parser.add_argument("--once", action="store_true", help="one run in this process")
    return parser.parse_args()


def child(asked: argparse.Namespace, hours: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--once", "--hours", str(hours)]
    command += ["--agents", str(asked.agents), "--memory-gib", str(asked.memory_gib)]
    command += ["--data", str(asked.data)] if asked.data else []
    command += ["--mixed"] if asked.mixed else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def once(asked: argparse.Namespace) -> dict[str, Any]:
    priorities = list(Priority) if asked.mixed else [Priority.NORMAL]
    plans = fleet(jobs(asked.data), asked.agents, asked.hours * 3600, seed=1, priorities=priorities)
    host = HostModel(catches_up=False, kills_at_budget=True)
    world = World(asked.memory_gib * GIB, plans, host=host, keep_calls=False)
    begin = time.process_time()
    result = world.run(limit_s=asked.hours * 3600)
    totals = list(result.sessions.values())
    return {
        "agents": asked.agents,
        "hours": asked.hours,
        "cpu_s": round(time.process_time() - begin, 1),
        "resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "events": result.events,
        "calls": sum(session.calls for session in totals),
        "lost": sum(session.lost for session in totals),
        "oom_kills": sum(session.oom_kills for session in totals),
        "policy_kills": sum(session.policy_kills for session in totals),
        "waited_s": round(sum(session.waited_ns for session in totals) / 1e9, 1),
        "frozen_s": round(sum(session.frozen_ns for session in totals) / 1e9, 1),
        "throttled_s": round(sum(session.throttled_ns for session in totals) / 1e9, 1),
        "most_held_gib": round(result.most_held_bytes / GIB, 2),
        "actions": dict(result.actions),
    }


def jobs(data: Path | None) -> list[SessionJob]:
    """Moves below 4 MiB are left out: nobody decides on them."""
    found = []
    for path in sorted(Path(data).rglob("resources.json.gz")) if data else sorted(OWN.glob("*.gz")):
        try:
            trace = load_session_trace(path)
        except AgentCgroupError:
            continue
        found.append(replace(trace, step_bytes=max(STEP_BYTES, trace.step_bytes)))
    options = SimulationOptions(
        total_memory_bytes=1 << 50, base_memory_bytes=0, granularity=Granularity.TOOL
    )
    return make_jobs(found, [Priority.NORMAL] * len(found), options)


if __name__ == "__main__":
    main()
