# SPDX-License-Identifier: Apache-2.0
"""Several policies, several times, interleaved: every round plays each policy once.

The order within a round is shuffled by the seed, so that a slow minute of the host hits
no policy alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ..trace.jobs import SessionJob
from ..trace.results import RunResult
from .driver import run_policy
from .options import Policy, ReplayOptions

__all__ = ["compare", "who_lost"]

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
