# SPDX-License-Identifier: Apache-2.0
"""How late a periodic tool call of the class `interactive` wakes up, alone and beside others.

Runs inside a guest with sched_ext and *one* CPU (two emulated ones share a thread of the host).
The victim sleeps until times 10 ms apart; late is the actual time less the planned one. It is a
tool call with `--latency interactive`, its neighbours are calls of another session with `batch`:

    alone       no neighbours
    spinners    two for each CPU
    forks       as many processes that start children which end at once

Every round measures all of them under EEVDF and under sched_ext, with the weights that the daemon
gives (the same ones: they are compared).

    python cpu_wakeup.py [--rounds 5] [--wakeups 1000] [--work-us 0] [--json FILE] [--check]

Prints one JSON object: quantiles over all rounds, and medians of the rounds' ratios to alone and
to EEVDF with bootstrap intervals. --json keeps every single wakeup.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from cpu_common import CPUS, bounded, finish, interleaved, options_parser, program, selected
from harness import PrivateDaemon, Shim, read_value, until
from isolation import interval

PERIOD_US = 10_000
NEIGHBOURS = {
    "alone": [],
    "spinners": [["spin"]] * (2 * CPUS),
    "forks": [["forks", str(2 * CPUS)]],
}
QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
BOUND_OVER_EEVDF = 1.0


def main() -> int:
    options = arguments()
    chosen = selected(NEIGHBOURS, options.only)
    with program("load") as load, program("wakeups") as wakeups:
        victim = [wakeups, str(PERIOD_US), str(options.work_us), str(options.wakeups)]

        def measure(daemon: PrivateDaemon) -> dict[str, Any]:
            for session in ("victim", "neighbours"):
                daemon.client.create_session(session)
            found = {}
            for name, commands in chosen.items():
                with neighbours(daemon, [[load, *arguments] for arguments in commands]) as beside:
                    found[name] = one_run(daemon, victim, beside)
            return found

        runs = interleaved(options, measure)
    same_weights(runs)
    rows = [row(name, under, runs) for name in chosen for under in runs]
    return finish(options, rows)


@contextlib.contextmanager
def neighbours(daemon: PrivateDaemon, commands: list[list[str]]) -> Iterator[list[Shim]]:
    shims = [
        daemon.shim(*command, session="neighbours", options=["--latency", "batch"])
        for command in commands
    ]
    for shim in shims:
        daemon.call_of(shim)
    try:
        yield shims
    finally:
        for shim in shims:
            shim.kill()
        until(lambda: not daemon.leaves(), "the neighbours' leaves are gone", daemon.log_text)


def one_run(daemon: PrivateDaemon, victim: list[str], beside: list[Shim]) -> dict[str, Any]:
    shim = daemon.shim(*victim, session="victim", options=["--latency", "interactive"])
    daemon.call_of(shim)
    weights = {"victim": weight(daemon, shim), "neighbours": [weight(daemon, s) for s in beside]}
    status = shim.wait()
    if status != 0:
        raise RuntimeError(f"the victim ended with {status}: {shim.stderr}")
    told = json.loads(shim.stdout)
    late_ms = sorted(value / 1e6 for value in told["late_ns"])
    return {"late_ms": late_ms, "missed": told["missed"], "cpu_weight": weights}


def weight(daemon: PrivateDaemon, shim: Shim) -> int:
    leaf = shim.leaf(daemon.root)
    if leaf is None:
        raise RuntimeError(f"no longer in its leaf\n{daemon.log_text()[-4000:]}")
    return int(read_value(leaf, "cpu.weight"))


def same_weights(runs: dict[str, list[dict[str, Any]]]) -> None:
    """RuntimeError unless both schedulers were given the same."""
    given = {
        json.dumps({name: found["cpu_weight"] for name, found in run.items()})
        for measured in runs.values()
        for run in measured
    }
    if len(given) > 1:
        raise RuntimeError(f"the schedulers were given different weights: {given}")


# --- rows


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(name: str, under: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours = [run[name] for run in runs[under]]
    pooled = sorted(value for run in ours for value in run["late_ms"])
    found: dict[str, Any] = {
        "beside": name,
        "scheduler": under,
        "wakeups": len(pooled),
        "missed": sum(run["missed"] for run in ours),
        "late": {label: quantile(pooled, share) for label, share in QUANTILES.items()},
        "cpu_weight": ours[0]["cpu_weight"],
    }
    if name != "alone" and "alone" in runs[under][0]:
        found["over_alone"] = against(ours, [run["alone"] for run in runs[under]])
    if under != "eevdf" and "eevdf" in runs:
        found["over_eevdf"] = against(ours, [run[name] for run in runs["eevdf"]])
        found["p99_over_eevdf"] = found["over_eevdf"]["p99_ms"]
        bounded(found, "p99_over_eevdf", at_most=BOUND_OVER_EEVDF)
    return found


def against(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of the rounds' quantiles."""
    return {
        label: interval(
            [
                quantile(a["late_ms"], share) / quantile(b["late_ms"], share)
                for a, b in zip(ours, theirs, strict=True)
            ]
        )
        for label, share in QUANTILES.items()
    }


def arguments() -> argparse.Namespace:
    parser = options_parser("How late interactive calls wake up.")
    parser.add_argument("--wakeups", type=int, default=1000, help="of one run, 10 ms apart")
    parser.add_argument("--work-us", type=int, default=0, help="what it computes after each")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
