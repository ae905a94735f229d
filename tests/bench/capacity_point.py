# SPDX-License-Identifier: Apache-2.0
"""One point of `trace capacity` in a real kernel: as many agents as the simulator says that a small
host holds, played on it.

    python capacity_point.py TRACES --agents N [--memory 3G] [--speed 12] [--draws 1] [--out FILE]

Without --agents it only prints how many fit by policy, and plays nothing (that needs no guest).
Inside a guest the first draws are played as `trace capacity` draws them (each run stretched to the
mean duration and begun at a random hundredth of it), once with a daemon on this memory and
once without any on memory for all, with the CPU weights that the daemon gives. A replay's
processes cost some memory beside what they play: the host gets as much more for an agent and one
call each. Prints one JSON object: kills, calls lost, how much longer
sessions took than without a limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import isolation  # noqa: E402
from simulated import jobs, usable  # noqa: E402

from agentcgroup.replay.driver import run_policy  # noqa: E402
from agentcgroup.replay.options import Granularity, Policy, ReplayOptions  # noqa: E402
from agentcgroup.simulate.capacity import (  # noqa: E402
    POINTS,
    CapacityHost,
    Target,
    capacity,
    drawn,
)
from agentcgroup.simulate.run import SimulatedPolicy  # noqa: E402
from agentcgroup.trace.jobs import PROCESS_BYTES, SessionJob, make_jobs  # noqa: E402
from agentcgroup.trace.model import SessionTrace  # noqa: E402
from agentcgroup.trace.results import RunResult  # noqa: E402
from agentcgroup.types.intents import Priority  # noqa: E402
from agentcgroup.units import parse_size_bytes  # noqa: E402

POLICIES = (
    SimulatedPolicy.STATIC_PEAK, SimulatedPolicy.CLAIRVOYANT, SimulatedPolicy.AGENTCGROUP,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="One point of `trace capacity`, played.")
    parser.add_argument("traces", type=Path)
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--agents", type=int)
    parser.add_argument("--speed", type=float, default=12.0)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    memory = parse_size_bytes(asked.memory)
    names = usable(asked.traces)
    known = jobs(asked.traces, names, [Priority.NORMAL] * len(names), granularity=Granularity.TOOL)
    if asked.agents is None:
        fits = {
            policy.value: capacity(policy, known, CapacityHost(memory), Target()).as_json()
            for policy in POLICIES
        }
        found: Any = {policy: {"agents": cell["agents"], "at": cell["at"]}
                      for policy, cell in fits.items()}  # fmt: skip
    else:
        found = played(asked, [job.trace for job in known], memory)
    print(json.dumps(found, indent=1))


def played(
    asked: argparse.Namespace, traces: list[SessionTrace], memory_bytes: int
) -> dict[str, Any]:
    length_s = statistics.fmean(trace.duration_s for trace in traces)
    total = memory_bytes + 2 * asked.agents * PROCESS_BYTES
    options = ReplayOptions(
        total_memory_bytes=total, speed=asked.speed, base_memory_bytes=0,
        granularity=Granularity.TOOL,
    )  # fmt: skip
    rows = []
    for number, (chosen, offsets) in enumerate(
        drawn(len(traces), asked.agents, asked.draws, Target().seed)
    ):
        begins_s = [offset / POINTS * length_s for offset in offsets]
        group = make_jobs(
            [begun(traces[index], length_s, at_s)
             for index, at_s in zip(chosen, begins_s, strict=True)],
            [Priority.NORMAL] * asked.agents, options,
        )  # fmt: skip
        floor = isolation.play(isolation.FLOOR, group, options, number)
        run = run_policy(Policy.AGENTCGROUP, group, options, run=number)
        rows.append(figures(group, run, floor, [at_s / asked.speed for at_s in begins_s]))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if asked.out is not None:
            asked.out.write_text(json.dumps(rows), encoding="utf-8")
    return {
        "agents": asked.agents,
        "memory_bytes": memory_bytes,
        "speed": asked.speed,
        "draws": rows,
    }


def begun(trace: SessionTrace, length_s: float, begin_s: float) -> SessionTrace:
    """Stretched to `length_s`, after having held its first level for `begin_s`."""
    factor = length_s / trace.duration_s

    def moved(at_s: float) -> float:
        return begin_s + at_s * factor

    def later(samples: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        return ((0.0, samples[0][1]), *((moved(at_s), size) for at_s, size in samples))

    return dataclasses.replace(
        trace,
        samples=later(trace.samples),
        agent_samples=later(trace.agent_samples or trace.samples),
        cpu_samples=(),
        calls=tuple(
            dataclasses.replace(
                call, begin_s=moved(call.begin_s), end_s=moved(call.end_s),
                samples=tuple((at_s * factor, size) for at_s, size in call.samples),
            )
            for call in trace.calls
        ),
    )  # fmt: skip


def figures(
    group: list[SessionJob], run: RunResult, floor: RunResult, begins_s: list[float]
) -> dict[str, Any]:
    slowdowns = [
        (session.completion_s - begin_s) / (free.completion_s - begin_s)
        for session, free, begin_s in zip(run.sessions, floor.sessions, begins_s, strict=True)
        if session.completion_s is not None and free.completion_s is not None
    ]
    return {
        "agents_lost": sum(not session.survived for session in run.sessions),
        "calls": sum(len(job.calls) for job in group),
        "calls_lost": sum(session.calls_lost for session in run.sessions),
        "kills": run.kills,
        "slowdown_mean": statistics.fmean(slowdowns) if slowdowns else None,
        "slowdown_max": max(slowdowns, default=None),
        "waited_s": sum(session.waited_ms or 0 for session in run.sessions) / 1e3,
        "held_s": sum((s.throttled_ms or 0) + (s.frozen_ms or 0) for s in run.sessions) / 1e3,
        "over_fixed_peaks": sum(job.trace.peak_bytes for job in group)
        / run.settings["total_memory_bytes"],
    }


if __name__ == "__main__":
    main()
