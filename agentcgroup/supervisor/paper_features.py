# SPDX-License-Identifier: Apache-2.0
"""AgentStop's features of a step: `paper`, one predictor for each step.

At step k, for each step so far: its 10 smallest token probabilities in ascending order, its
tokens, its thought tokens (before the first code), and from the second step on the longest
common substring of its text and the one before, over the length of its text. Source: the
reproduction notebook of AgentStop. Missing is NaN.

Held for the first PAPER_STEPS steps only: memory stays fixed, and there is no predictor later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..types.steps import StepReport
from .probabilities import SMALLEST, checked_summary
from .signals import HostSignals

__all__ = ["PAPER_STEPS", "PaperExtractor", "common_substring", "paper_names"]

PAPER_STEPS = 5
# A text's length beyond which its beginning stands for it: the search takes text x text memory.
_COMPARED_CHARS = 4096
_GRAM = 8


def paper_names(step: int) -> tuple[str, ...]:
    """Names of the features at `step` (from 0)."""
    names: list[str] = []
    for at in range(step + 1):
        names += [f"step{at}.probability_{rank}" for rank in range(SMALLEST)]
        names += [f"step{at}.tokens", f"step{at}.thought_tokens"]
        if at:
            names.append(f"step{at}.common_substring")
    return tuple(names)


class PaperExtractor:
    def __init__(self) -> None:
        self._row: tuple[float, ...] = ()
        self._steps = 0
        self._last_text: str | None = None

    def update(self, report: StepReport, host: HostSignals | None = None) -> tuple[float, ...]:
        """Features at this step, () after the last one with a predictor. As FullExtractor."""
        summary = checked_summary(report.logprobs, report.logprob_summary, report.completion_tokens)
        if self._steps == PAPER_STEPS:
            return ()
        smallest = [summary.get(f"smallest_{rank}") for rank in range(SMALLEST)]
        row = [math.nan if value is None else math.exp(value) for value in smallest]
        thought = report.thought_tokens
        row += [float(report.completion_tokens), math.nan if thought is None else float(thought)]
        text = None if report.text is None else report.text[:_COMPARED_CHARS]
        if self._steps:
            row.append(_overlap(text, self._last_text))
        self._row += tuple(row)
        self._steps += 1
        self._last_text = text
        return self._row


def _overlap(text: str | None, last: str | None) -> float:
    if text is None or last is None:
        return math.nan
    return common_substring(text, last) / len(text) if text else 0.0


def common_substring(one: str, other: str) -> int:
    """Length of the longest common substring.

    By their common grams: where those of `one` follow each other without a gap, a longer common
    part may lie; the longest such runs are looked at first, and the rest no more once it is short.
    """
    grams = {other[at : at + _GRAM] for at in range(len(other) - _GRAM + 1)}
    starts = [at for at in range(len(one) - _GRAM + 1) if one[at : at + _GRAM] in grams]
    if not starts:
        return _short_common_substring(one, other)
    best = _GRAM
    for begin, end in sorted(_runs(starts), key=lambda run: run[0] - run[1]):
        for at in range(begin, end - best):
            if at + best >= end:
                break
            if one[at : at + best + 1] in other:
                best = _grown(one[at:end], other, best + 1)
    return best


def _runs(starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Parts of the text, begin and end, whose every gram is a common one."""
    begin = before = starts[0]
    for at in starts[1:]:
        if at != before + 1:
            yield begin, before + _GRAM
            begin = at
        before = at
    yield begin, before + _GRAM


def _grown(part: str, other: str, low: int) -> int:
    """How much of the beginning of `part` is in `other`; at least `low` characters are."""
    high = len(part)
    while low < high:
        length = (low + high + 1) // 2
        low, high = (length, high) if part[:length] in other else (low, length - 1)
    return low


def _short_common_substring(one: str, other: str) -> int:
    """The same for texts that share less than a gram, by bisection over the length."""
    low, high = 0, min(len(one), len(other), _GRAM - 1)
    while low < high:
        length = (low + high + 1) // 2
        parts = {one[at : at + length] for at in range(len(one) - length + 1)}
        found = any(other[at : at + length] in parts for at in range(len(other) - length + 1))
        low, high = (length, high) if found else (low, length - 1)
    return low
