# SPDX-License-Identifier: Apache-2.0
"""cpu.max: what a leaf with more work than quota uses, against its quota.

Runs inside a guest with sched_ext and two CPUs (or a host like it). Three spinners in one leaf;
a quota is in percent of one CPU, so 200 is all of two. The error is relative to the quota, by
cpu.stat. Every round measures every case under EEVDF and under sched_ext.

    20, 50, 150        alone
    …-burst            with cpu.max.burst as large as the quota: more now and then, not on average
    …-beside           beside a leaf without quota and three spinners; ten times its weight, so
                       that the quota and not the weight is what holds
    parent-50          a quota of 50 above one of 80
    child-50           a quota of 80 above one of 50

    python cpu_quota.py [--rounds 5] [--seconds 30] [--only '20*,parent*'] [--json FILE] [--check]

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from cpu_common import (
    CPUS,
    Arena,
    bounded,
    finish,
    interleaved,
    options_parser,
    program,
    selected,
    spread,
    used_cpu_s,
)

PERIOD_US = 100_000
SPINNERS = 3
WEIGHT = 1000
BOUND_PCT = 3.0


@dataclass(frozen=True, slots=True)
class Case:
    """Quotas from the top down, in percent of a CPU; the last one is the leaf's."""

    quotas_pct: tuple[int, ...]
    burst: bool = False
    beside: bool = False


CASES = {
    f"{quota}{'-burst' * burst}{'-beside' * beside}": Case((quota,), burst, beside)
    for quota in (20, 50, 150)
    for burst in (False, True)
    for beside in (False, True)
} | {"parent-50": Case((50, 80)), "child-50": Case((80, 50))}


def main() -> int:
    options = arguments()
    chosen = selected(CASES, options.only)
    with program("load") as load:
        runs = interleaved(
            options,
            lambda _daemon: {
                name: measure(case, load, options.seconds) for name, case in chosen.items()
            },
        )
    rows = [
        summary(name, under, [run[name] for run in measured])
        for name in chosen
        for under, measured in runs.items()
    ]
    for row in rows:
        bounded(row, "error_pct", at_most=BOUND_PCT)
    return finish(options, rows)


def measure(case: Case, load: str, window_s: float, warm_up_s: float = 1.0) -> dict[str, Any]:
    """What the leaf used, in percent of a CPU, and its error relative to the tightest quota."""
    with Arena() as arena:
        path, leaf = "held", arena.top
        for quota_pct in case.quotas_pct:
            leaf = arena.make(path, settings(quota_pct, case.burst))
            path += "/below"
        neighbour = arena.make("neighbour")
        arena.start(leaf, [load, "spin"], SPINNERS)
        arena.start(neighbour, [load, "spin"], SPINNERS * case.beside)
        (used_s, other_s), took_s = used_cpu_s([leaf, neighbour], window_s, warm_up_s)
    quota_pct = min(case.quotas_pct)
    used_pct = 100 * used_s / took_s
    return {
        "used_pct": used_pct,
        "error_pct": 100 * (used_pct / quota_pct - 1),
        "took_s": took_s,
        # What nobody used: with a neighbour there should be nothing left.
        "idle_pct": 100 * (CPUS - (used_s + other_s) / took_s),
    }


def settings(quota_pct: int, burst: bool) -> dict[str, object]:
    quota_us = PERIOD_US * quota_pct // 100
    burst_us = {"cpu.max.burst": quota_us} if burst else {}
    return {"cpu.weight": WEIGHT, "cpu.max": f"{quota_us} {PERIOD_US}", **burst_us}


def summary(name: str, under: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "case": name,
        "scheduler": under,
        "error_pct": spread([abs(run["error_pct"]) for run in measured]),
        "used_pct": spread([run["used_pct"] for run in measured]),
        "idle_pct": spread([run["idle_pct"] for run in measured]),
    }


def arguments() -> argparse.Namespace:
    parser = options_parser("CPU quotas against what is used.")
    parser.add_argument("--seconds", type=float, default=30.0, help="a run's window")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
