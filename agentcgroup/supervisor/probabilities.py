# SPDX-License-Identifier: Apache-2.0
"""The token probabilities of one step in a few figures: what a summary on the wire holds.

Made here for both who sends every log-probability and who sends the summary alone, so that
the two give the same features. Natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import InvalidValueError

__all__ = ["SMALLEST", "SUMMARY_KEYS", "checked_summary", "summarise"]

SMALLEST = 10
_SMALLEST_KEYS = tuple(f"smallest_{rank}" for rank in range(SMALLEST))
SUMMARY_KEYS = ("mean", "p10", "low_share", "tail_mean", *_SMALLEST_KEYS)
# A token the model itself held for less likely than not.
_LOW = math.log(0.5)


def summarise(logprobs: Sequence[float]) -> dict[str, float]:
    """Figures of `logprobs`; {} of none.

    mean, p10: of the log-probabilities; low_share: share of tokens below probability 0.5;
    tail_mean: mean of the last tenth, where a step decides what to do; smallest_0 … 9: the
    smallest, ascending (fewer tokens: fewer keys).
    """
    count = len(logprobs)
    if not count:
        return {}
    ordered = sorted(logprobs)
    tail = logprobs[-max(1, count // 10) :]
    figures = {
        "mean": sum(logprobs) / count,
        "p10": ordered[count // 10],
        "low_share": sum(1 for value in logprobs if value < _LOW) / count,
        "tail_mean": sum(tail) / len(tail),
    }
    return figures | dict(zip(_SMALLEST_KEYS, ordered, strict=False))


def checked_summary(
    logprobs: Sequence[float] | None,
    summary: Mapping[str, float] | None,
    completion_tokens: int,
) -> dict[str, float]:
    """The summary of whichever was sent; {} if neither. InvalidValueError names the field."""
    if logprobs is not None and summary is not None:
        raise InvalidValueError("logprob_summary", summary, "send it or logprobs, not both")
    if logprobs is not None:
        _check_logprobs(logprobs, completion_tokens)
        return summarise(logprobs)
    for key, value in (summary or {}).items():
        if key not in SUMMARY_KEYS:
            raise InvalidValueError(
                f"logprob_summary.{key}", value, f"known figures: {', '.join(SUMMARY_KEYS)}"
            )
        if not math.isfinite(value):
            raise InvalidValueError(f"logprob_summary.{key}", value, "must be a finite number")
    return dict(summary or {})


def _check_logprobs(logprobs: Sequence[float], completion_tokens: int) -> None:
    # Whole first: what is wrong is looked for only where something is.
    suspect = logprobs and not (math.isfinite(sum(logprobs)) and max(logprobs) <= 0)
    for index, value in enumerate(logprobs if suspect else ()):
        if not math.isfinite(value) or value > 0:
            raise InvalidValueError(
                f"logprobs.{index}", value, "must be a finite natural logarithm, at most 0"
            )
    # Servers differ in whether the token that ends the text is counted.
    if logprobs and abs(len(logprobs) - completion_tokens) > 1:
        raise InvalidValueError(
            "logprobs", f"{len(logprobs)} for {completion_tokens} completion_tokens",
            "send one log-probability for each generated token, or a logprob_summary",
        )  # fmt: skip
