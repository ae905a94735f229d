# SPDX-License-Identifier: Apache-2.0
"""From scores of runs that succeed to a threshold that stops few of them.

Everything is about P(any stop during the run | the run succeeds): one number a run, the
score at which it would be stopped at the latest, never one a step.

expected: conformal risk control (Angelopoulos et al., arXiv 2208.02814). With n exchangeable
successes the expected share of stopped ones is at most (false stops + 1) / (n + 1).
high-probability: Clopper-Pearson. With the stated confidence the true share is below the
bound; needs successes that were not used for fitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Bound", "Calibration", "calibrate", "clopper_pearson_upper", "needed_successes"]

_BISECTIONS = 60


class Bound(StrEnum):
    EXPECTED = "expected"
    HIGH_PROBABILITY = "high-probability"


@dataclass(frozen=True, slots=True)
class Calibration:
    """`threshold`: a run stops at a score of at least this; infinity: never.

    `drop_bound`: what the bound promises at this threshold; `certified`: it is at most
    `max_drop`. `reason` says why not.
    """

    threshold: float
    bound: Bound
    max_drop: float
    confidence: float | None
    n_success: int
    false_stops: int
    drop_bound: float
    certified: bool
    reason: str


def calibrate(
    success_scores: Sequence[float],
    *,
    max_drop: float,
    bound: Bound = Bound.EXPECTED,
    confidence: float = 0.95,
) -> Calibration:
    """The lowest threshold (the largest stopping region) that keeps the bound.

    `success_scores`: run-level scores of successes, -inf for one that can't be stopped. Where
    high-probability can't be reached with any threshold, the one that stops none of these
    successes is given, not certified.
    """
    ordered = sorted(success_scores, reverse=True)
    allowed = _allowed(len(ordered), max_drop, bound, confidence)
    certified = allowed >= 0
    if certified:
        threshold = _just_above(ordered, allowed)
    else:
        threshold = math.inf if bound is Bound.EXPECTED else _just_above(ordered, 0)
    false_stops = sum(score >= threshold for score in ordered)
    return Calibration(
        threshold=threshold,
        bound=bound,
        max_drop=max_drop,
        confidence=confidence if bound is Bound.HIGH_PROBABILITY else None,
        n_success=len(ordered),
        false_stops=false_stops,
        drop_bound=_promise(false_stops, len(ordered), bound, confidence),
        certified=certified,
        reason="" if certified else _why_not(len(ordered), max_drop, bound, confidence),
    )


def clopper_pearson_upper(false_stops: int, n: int, confidence: float) -> float:
    """One-sided upper limit of a share of which `false_stops` of `n` were seen."""
    if false_stops >= n:
        return 1.0
    low, high = false_stops / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _at_most(false_stops, n, middle) > 1 - confidence else (low, middle)
        )
    return high


def needed_successes(max_drop: float, bound: Bound, confidence: float) -> int:
    """Fewest successes with which the bound can be kept while none of them is stopped."""
    if bound is Bound.EXPECTED:
        return max(0, math.ceil(1 / max_drop) - 1)
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_drop))


def _allowed(n: int, max_drop: float, bound: Bound, confidence: float) -> int:
    """Most false stops among `n` that keep the bound; -1 if none does."""
    if bound is Bound.EXPECTED:
        return max(-1, math.floor(max_drop * (n + 1) + 1e-9) - 1)
    allowed = -1
    while allowed + 1 < n and clopper_pearson_upper(allowed + 1, n, confidence) <= max_drop:
        allowed += 1
    return allowed


def _just_above(ordered: Sequence[float], allowed: int) -> float:
    """Lowest threshold that at most `allowed` of the descending scores reach."""
    if allowed >= len(ordered):
        return -math.inf
    return math.nextafter(ordered[allowed], math.inf)


def _promise(false_stops: int, n: int, bound: Bound, confidence: float) -> float:
    if bound is Bound.EXPECTED:
        return (false_stops + 1) / (n + 1)
    return clopper_pearson_upper(false_stops, n, confidence)


def _at_most(count: int, n: int, share: float) -> float:
    """P(X <= count) of a binomial."""
    return math.fsum(
        math.comb(n, hits) * share**hits * (1 - share) ** (n - hits) for hits in range(count + 1)
    )


def _why_not(n: int, max_drop: float, bound: Bound, confidence: float) -> str:
    needed = needed_successes(max_drop, bound, confidence)
    sure = "" if bound is Bound.EXPECTED else f" at {confidence:.0%} confidence"
    return (
        f"a drop of at most {max_drop:.1%}{sure} needs at least {needed} successes"
        f" with no false stop; there are {n}"
    )
