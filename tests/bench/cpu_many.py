# SPDX-License-Identifier: Apache-2.0
"""A thousand processes that want the CPU from the same moment on: how long one of them waits.

Runs inside a guest with sched_ext and *one* CPU (the ticks of two emulated ones come late). What
counts is each process's longest gap between two moments in which it ran, over the time that one
round of all takes if each has a tick: runnable x tick / CPUs.

    one-call     all of them in one tool call
    ten-calls    a hundred in each of ten calls: interactive, standard and batch ones

    python cpu_many.py [--rounds 5] [--processes 1000] [--seconds 20] [--json FILE] [--check]

Prints one JSON object: the median and the longest of the processes' longest gaps, in such rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cpu_common import (
    CPUS,
    bounded,
    finish,
    interleaved,
    options_parser,
    program,
    selected,
    spread,
)
from harness import PrivateDaemon

TICK_MS = 4  # Debian's kernels: CONFIG_HZ=250
BOUND_ROUNDS = 1.5
CALLS = {"one-call": 1, "ten-calls": 10}
LATENCIES = ("interactive", "standard", "batch")
MORE_PIDS = 100


def main() -> int:
    options = arguments()
    chosen = selected(CALLS, options.only)
    with program("many") as many:
        runs = interleaved(
            options,
            lambda daemon: {
                name: gaps(daemon, many, calls, options) for name, calls in chosen.items()
            },
        )
    rows = [
        row(name, under, [run[name] for run in runs[under]]) for name in chosen for under in runs
    ]
    for found in rows:
        bounded(found, "longest_rounds", at_most=BOUND_ROUNDS)
    return finish(options, rows)


def gaps(
    daemon: PrivateDaemon, many: str, calls: int, options: argparse.Namespace
) -> dict[str, float]:
    """In rounds of all. RuntimeError when a call fails."""
    each = options.processes // calls
    shims = []
    for number in range(calls):
        daemon.client.create_session(session := f"many-{calls}-{number}", pids_max=2 * each + 200)
        latency = LATENCIES[number % len(LATENCIES)] if calls > 1 else "standard"
        limits = ["--latency", latency, "--pids-max", str(each + MORE_PIDS)]
        argv = [many, str(each), str(options.seconds)]
        shims.append(daemon.shim(*argv, session=session, options=limits))
    longest_ns = []
    for shim in shims:
        if (status := shim.wait()) != 0:
            raise RuntimeError(f"it ended with {status}: {shim.stderr}")
        longest_ns += json.loads(shim.stdout)["longest_ns"]
    for number in range(calls):
        daemon.client.end_session(f"many-{calls}-{number}")
    round_ns = options.processes * TICK_MS * 1e6 / CPUS
    ordered = sorted(value / round_ns for value in longest_ns)
    return {"median": ordered[len(ordered) // 2], "longest": ordered[-1]}


def row(name: str, under: str, measured: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "case": name,
        "scheduler": under,
        "longest_rounds": spread([run["longest"] for run in measured]),
        "median_rounds": spread([run["median"] for run in measured]),
    }


def arguments() -> argparse.Namespace:
    parser = options_parser("How long one of a thousand processes waits.")
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=20, help="of a run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
