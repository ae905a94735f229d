# SPDX-License-Identifier: Apache-2.0
"""How near the simulator is to a replay in a real kernel: groups of three recorded sessions on
memory that is too small for them without somebody who divides it.

    python fidelity.py play TRACES --out runs.json [--groups 24] [--speed 20]     in a guest
    python fidelity.py compare TRACES runs.json [--calibrate 4] [--plot F.png]    anywhere

`play` draws groups (one high, two low) for which the simulator says that `none` loses a session,
and plays each `alone`, under `none` and under `agentcgroup`. `compare` fits the host model's two
speeds (growth of a process, reaction of the daemon) to the first groups, which it then leaves out,
simulates the others and prints the error of added time (completion less alone), of waited and of
throttled time (frozen counts as throttled: both stand at the line), relative to the replay, by
session, and in which sessions survival differs. Only groups count in which the replay's `none`
lost a session or slowed one by 20 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from simulated import HIGH_LOW_LOW, jobs, usable  # noqa: E402

from agentcgroup.replay.driver import run_policy  # noqa: E402
from agentcgroup.replay.options import Policy, ReplayOptions  # noqa: E402
from agentcgroup.simulate.host import HostModel  # noqa: E402
from agentcgroup.simulate.run import (  # noqa: E402
    SimulatedPolicy,
    SimulationOptions,
    simulate_policy,
)
from agentcgroup.trace.jobs import SessionJob  # noqa: E402
from agentcgroup.trace.results import RunResult  # noqa: E402
from agentcgroup.units import MIB  # noqa: E402

BASE_MIB = 100
SHARE_OF_PEAKS = 0.7
LONGEST_S = 420
MEASURES = ("added_s", "waited_s", "held_s")
# Less than this in both is no error of the model, and a share of it says nothing.
TELLING_S = 0.25
GROWTHS_MIB_PER_S = (150, 250, 400, 700, 1024)
DELAYS_MS = (2, 10, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description="The simulator against replays.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    plays = verbs.add_parser("play")
    plays.add_argument("traces", type=Path)
    plays.add_argument("--groups", type=int, default=24)
    plays.add_argument("--speed", type=float, default=20.0)
    plays.add_argument("--seed", type=int, default=1)
    plays.add_argument("--out", type=Path, required=True)
    compares = verbs.add_parser("compare")
    compares.add_argument("traces", type=Path)
    compares.add_argument("runs", type=Path)
    compares.add_argument("--calibrate", type=int, default=4, help="groups for it, not scored")
    compares.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    if asked.verb == "play":
        play(asked)
    else:
        print(json.dumps(compare(asked), indent=1))


# --- in the guest


def play(asked: argparse.Namespace) -> None:
    done: list[dict[str, Any]] = []
    for names, total in itertools.islice(tight_groups(asked), asked.groups):
        group = load(asked.traces, names)
        options = ReplayOptions(
            total_memory_bytes=total, speed=asked.speed, base_memory_bytes=BASE_MIB * MIB
        )
        played = {
            policy.value: plain(run_policy(policy, group, options))
            for policy in (Policy.ALONE, Policy.NONE, Policy.AGENTCGROUP)
        }
        done.append({"names": names, "total_bytes": total, "speed": asked.speed, **played})
        asked.out.write_text(json.dumps(done), encoding="utf-8")
        print(f"group {len(done)}: {names}", file=sys.stderr, flush=True)


def tight_groups(asked: argparse.Namespace) -> Iterator[tuple[list[str], int]]:
    """Groups in which somebody is lost when nobody divides the memory."""
    draw = random.Random(asked.seed)
    short = [
        name for name in usable(asked.traces)
        if load(asked.traces, [name])[0].trace.duration_s < LONGEST_S
    ]  # fmt: skip
    while True:
        names = draw.sample(short, len(HIGH_LOW_LOW))
        group = load(asked.traces, names)
        needs = [job.need_bytes for job in group]
        total = max(int(SHARE_OF_PEAKS * sum(needs)), int(1.1 * max(needs)) + 64 * MIB)
        options = simulation(total, asked.speed, HostModel(kills_at_budget=True))
        if simulate_policy(SimulatedPolicy.NONE, group, options).survivors < len(group):
            yield names, total


def load(traces: Path, names: Sequence[str]) -> list[SessionJob]:
    return jobs(traces, names, HIGH_LOW_LOW[: len(names)], base_mib=BASE_MIB)


def simulation(total: int, speed: float, host: HostModel) -> SimulationOptions:
    return SimulationOptions(
        total_memory_bytes=total, speed=speed, base_memory_bytes=BASE_MIB * MIB, host=host
    )


def plain(run: RunResult) -> list[dict[str, Any]]:
    return [
        {"name": s.name, "survived": s.survived, "completion_s": s.completion_s,
         "waited_ms": s.waited_ms, "throttled_ms": s.throttled_ms, "frozen_ms": s.frozen_ms}
        for s in run.sessions
    ]  # fmt: skip


# --- anywhere


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    groups = json.loads(asked.runs.read_text())
    fitting, scored = groups[: asked.calibrate], groups[asked.calibrate :]
    host = fitted(asked.traces, fitting)
    telling = [group for group in scored if is_telling(group)]
    rows = [row for group in telling for row in sessions(asked.traces, group, host)]
    found = {
        "host": dataclasses.asdict(host),
        "groups": len(telling),
        "left_out": len(scored) - len(telling),
        "sessions": len(rows),
        "survival_differs": [
            row["name"] for row in rows if row["survived"][0] != row["survived"][1]
        ],
        "errors": {measure: errors(rows, measure) for measure in MEASURES},
        "rows": rows,
    }
    if asked.plot is not None:
        draw(rows, asked.plot)
    return found


def fitted(traces: Path, groups: Sequence[dict[str, Any]]) -> HostModel:
    """The speeds with the smallest sum of differences over these groups."""

    def off(host: HostModel) -> float:
        rows = [row for group in groups for row in sessions(traces, group, host)]
        return sum(abs(a - b) for row in rows for a, b in (row[m] for m in MEASURES))

    hosts = [
        HostModel(growth_bytes_per_s=growth * MIB, event_delay_ns=delay * 1_000_000,
                  kills_at_budget=True)
        for growth, delay in itertools.product(GROWTHS_MIB_PER_S, DELAYS_MS)
    ]  # fmt: skip
    return min(hosts, key=off)


def is_telling(group: dict[str, Any]) -> bool:
    return any(
        not none["survived"] or none["completion_s"] > 1.2 * alone["completion_s"]
        for none, alone in zip(group["none"], group["alone"], strict=True)
    )


def sessions(traces: Path, group: dict[str, Any], host: HostModel) -> list[dict[str, Any]]:
    """Per session and measure: (replayed, simulated)."""
    jobs_of = load(traces, group["names"])
    options = simulation(group["total_bytes"], group["speed"], host)
    alone, ours = (
        plain(simulate_policy(policy, jobs_of, options))
        for policy in (SimulatedPolicy.ALONE, SimulatedPolicy.AGENTCGROUP)
    )
    rows = []
    for number, job in enumerate(jobs_of):
        real = measures(group["alone"][number], group["agentcgroup"][number])
        model = measures(alone[number], ours[number])
        rows.append({
            "name": job.name,
            "survived": [group["agentcgroup"][number]["survived"], ours[number]["survived"]],
            **{m: [real[m], model[m]] for m in MEASURES},
        })  # fmt: skip
    return rows


def measures(alone: dict[str, Any], run: dict[str, Any]) -> dict[str, float]:
    if run["completion_s"] is None or alone["completion_s"] is None:
        return dict.fromkeys(MEASURES, 0.0)
    return {
        "added_s": run["completion_s"] - alone["completion_s"],
        "waited_s": (run["waited_ms"] or 0.0) / 1e3,
        "held_s": ((run["throttled_ms"] or 0.0) + (run["frozen_ms"] or 0.0)) / 1e3,
    }


def errors(rows: Sequence[dict[str, Any]], measure: str) -> dict[str, Any]:
    pairs = [row[measure] for row in rows if max(map(abs, row[measure])) >= TELLING_S]
    shares = [abs(real - model) / max(abs(real), TELLING_S) * 100 for real, model in pairs]
    return {
        "sessions": len(pairs),
        "median_pct": statistics.median(shares) if shares else None,
        "p90_pct": sorted(shares)[int(0.9 * len(shares))] if shares else None,
        "sum_s": [sum(pair[side] for pair in pairs) for side in (0, 1)],
    }


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(12, 4))
    titles = {"added_s": "added time", "waited_s": "waited", "held_s": "held at the line"}
    for axis, measure in zip(axes, MEASURES, strict=True):
        real, model = zip(*(row[measure] for row in rows), strict=True)
        most = max(*real, *model, 1.0) * 1.05
        axis.plot([0, most], [0, most], color="#888888", linewidth=1)
        axis.fill_between([0, most], [0, 0.85 * most], [0, 1.15 * most], color="#cccccc", alpha=0.5)
        axis.scatter(real, model, color="#0072b2", s=18)
        axis.set(title=titles[measure], xlabel="replayed in the guest, s", ylabel="simulated, s")
    figure.suptitle("A session each; grey: within 15 %")
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
