# SPDX-License-Identifier: Apache-2.0
"""Several policies, several times, interleaved: every round plays each policy once.

The order within a round is shuffled by the seed, so that a slow minute of the host hits
no policy alone.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .driver import run_policy
from .jobs import SessionJob
from .options import Policy, ReplayOptions
from .ratios import ratios
from .results import SCHEMA, RunResult

__all__ = ["compare", "report_json", "who_lost", "write_report"]

RoundProgress = Callable[[int, Policy, float], None]


def compare(
    jobs: Sequence[SessionJob],
    policies: Sequence[Policy],
    runs: int,
    options: ReplayOptions,
    progress: RoundProgress = lambda run, policy, share: None,
) -> list[RunResult]:
    """Results in the order they were measured. A host that can't is an error at once."""
    results: list[RunResult] = []
    draw = random.Random(options.seed)
    for number in range(1, runs + 1):
        order = list(policies)
        draw.shuffle(order)
        for policy in order:

            def told(share: float, run: int = number, now: Policy = policy) -> None:
                progress(run, now, share)

            results.append(run_policy(policy, jobs, options, run=number, progress=told))
    return results


def who_lost(results: Sequence[RunResult], policy: Policy) -> list[str]:
    """Sessions that did not survive under `policy`, as "run 1: name"."""
    return [
        f"run {result.run}: {session.name}"
        for result in results
        if result.policy == policy.value
        for session in result.sessions
        if not session.survived
    ]


def report_json(results: Sequence[RunResult], seed: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runs": [result.as_json() for result in results],
        "ratios": ratios(results, seed),
    }


def write_report(path: Path, results: Sequence[RunResult], seed: int) -> None:
    """Atomically: half a report never has the name of a whole one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(report_json(results, seed), indent=1) + "\n"
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
