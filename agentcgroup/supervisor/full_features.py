# SPDX-License-Identifier: Apache-2.0
"""Our features of a step: `full`, one predictor for every step. Fixed memory per run.

Position and spending, repetition over the whole run, level and tail and trend of the token
probabilities, variety of tools, words of failure, and what the daemon saw of the tool calls.
Each is computed from this step and those before. NaN is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from ..types.steps import StepReport
from .probabilities import checked_summary
from .signals import HostSignals
from .sketch import ShingleMemory, places_of, shingles_of

__all__ = ["FULL_NAMES", "FullExtractor"]

UNKNOWN = math.nan
_REPEATED_SHARE = 0.9  # of a step's shingles that were said before: the step says nothing new
_SMOOTHING = 0.5
_MAX_TOOLS = 32
_FAILURE = re.compile(r"\b(?:error|errors|failed|failure|invalid|incorrect|exception)\b", re.I)
_SEARCHED_CHARS = 16384

FULL_NAMES = (
    "step", "prompt_tokens", "completion_tokens", "prompt_growth", "spent_prompt_tokens",
    "spent_completion_tokens", "spent_tokens", "prompt_mean", "completion_mean", "growth_mean",
    "seen_share", "seen_share_mean", "previous_share", "repeats_in_a_row", "repeats",
    "logprob_mean", "logprob_p10", "low_share", "tail_mean", "smallest", "logprob_run_mean",
    "logprob_trend", "low_share_run",
    "tool_calls", "tool_entropy", "tool_unchanged_in_a_row",
    "failure_words", "failure_words_in_a_row",
    "host_calls", "host_failed", "host_failed_in_a_row", "host_oom_killed", "host_timed_out",
    "host_repeated", "host_cpu_s", "host_peak_share", "host_silent_s",
)  # fmt: skip


class FullExtractor:
    def __init__(self) -> None:
        self._spending = _Spending()
        self._repetition = _Repetition()
        self._confidence = _Confidence()
        self._tools = _Tools()
        self._host = _Host()

    def update(self, report: StepReport, host: HostSignals | None = None) -> tuple[float, ...]:
        """Features at this step; InvalidValueError (nothing kept) for figures of no use."""
        summary = checked_summary(report.logprobs, report.logprob_summary, report.completion_tokens)
        return (
            *self._spending.update(report),
            *self._repetition.update(_shingles(report)),
            *self._confidence.update(summary),
            *self._tools.update(_tool_calls(report), report.text),
            *self._host.update(host),
        )


def _shingles(report: StepReport) -> frozenset[int] | None:
    if report.text is not None:
        return shingles_of(report.text)
    return frozenset(report.shingles) if report.shingles is not None else None


def _tool_calls(report: StepReport) -> list[str] | None:
    """None where nothing was said of them: not the same as none."""
    return report.tool_calls if "tool_calls" in report.model_fields_set else None


class _Spending:
    def __init__(self) -> None:
        self._steps = self._prompt = self._completion = 0
        self._first_prompt = 0
        self._last_prompt: int | None = None

    def update(self, report: StepReport) -> tuple[float, ...]:
        growth = UNKNOWN
        if self._last_prompt is not None:
            growth = float(report.prompt_tokens - self._last_prompt)
        else:
            self._first_prompt = report.prompt_tokens
        self._last_prompt = report.prompt_tokens
        self._steps += 1
        self._prompt += report.prompt_tokens
        self._completion += report.completion_tokens
        grown = report.prompt_tokens - self._first_prompt
        return (
            float(report.step), float(report.prompt_tokens), float(report.completion_tokens),
            growth, float(self._prompt), float(self._completion),
            float(self._prompt + self._completion), self._prompt / self._steps,
            self._completion / self._steps, grown / max(1, self._steps - 1),
        )  # fmt: skip


class _Repetition:
    def __init__(self) -> None:
        self._memory = ShingleMemory()
        self._previous = ShingleMemory()
        self._known = 0
        self._seen_sum = 0.0
        self._in_a_row = self._repeats = 0

    def update(self, shingles: frozenset[int] | None) -> tuple[float, ...]:
        if shingles is None:
            return (UNKNOWN,) * 5
        places = places_of(shingles)
        seen = self._memory.seen_share(places)
        previous = self._previous.seen_share(places)
        self._memory.add(places)
        self._previous = ShingleMemory()
        self._previous.add(places)
        self._known += 1
        self._seen_sum += seen
        repeated = seen >= _REPEATED_SHARE
        self._in_a_row = self._in_a_row + 1 if repeated else 0
        self._repeats += repeated
        mean = self._seen_sum / self._known
        return (seen, mean, previous, float(self._in_a_row), float(self._repeats))


class _Confidence:
    def __init__(self) -> None:
        self._known = 0
        self._mean_sum = self._low_sum = 0.0
        self._smooth: float | None = None

    def update(self, summary: Mapping[str, float]) -> tuple[float, ...]:
        told = [
            summary.get(key, UNKNOWN)
            for key in ("mean", "p10", "low_share", "tail_mean", "smallest_0")
        ]
        mean, low = told[0], told[2]
        if math.isnan(mean):
            return (*told, UNKNOWN, UNKNOWN, UNKNOWN)
        trend = UNKNOWN if self._smooth is None else mean - self._smooth
        before = mean if self._smooth is None else self._smooth
        self._smooth = before + _SMOOTHING * (mean - before)
        self._known += 1
        self._mean_sum += mean
        self._low_sum += 0.0 if math.isnan(low) else low
        return (*told, self._mean_sum / self._known, trend, self._low_sum / self._known)


class _Tools:
    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last: tuple[str, ...] | None = None
        self._unchanged = self._failing = 0

    def update(self, names: Sequence[str] | None, text: str | None) -> tuple[float, ...]:
        words = UNKNOWN if text is None else float(len(_FAILURE.findall(text[:_SEARCHED_CHARS])))
        self._failing = self._failing + 1 if words > 0 else 0
        failing = UNKNOWN if text is None else float(self._failing)
        return (*self._variety(names), words, failing)

    def _variety(self, names: Sequence[str] | None) -> tuple[float, ...]:
        if names is None:
            return (UNKNOWN,) * 3
        for name in names:
            known = name in self._counts or len(self._counts) < _MAX_TOOLS
            key = name if known else ""
            self._counts[key] = self._counts.get(key, 0) + 1
        now = tuple(names[:_MAX_TOOLS])
        self._unchanged = self._unchanged + 1 if now == self._last else 0
        self._last = now
        return (float(len(names)), _entropy(self._counts.values()), float(self._unchanged))


def _entropy(counts: Collection[int]) -> float:
    """Of the run's tool use so far, in bits; 0 without any."""
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts) if total else 0.0


class _Host:
    def __init__(self) -> None:
        self._failing = 0

    def update(self, host: HostSignals | None) -> tuple[float, ...]:
        if host is None:
            return (UNKNOWN,) * 9
        if host.calls:
            self._failing = self._failing + host.failed if host.failed == host.calls else 0
        return (
            float(host.calls), float(host.failed), float(self._failing),
            float(host.oom_killed), float(host.timed_out), float(host.repeated),
            _or_unknown(host.cpu_s), _or_unknown(host.peak_share), _or_unknown(host.silent_s),
        )  # fmt: skip


def _or_unknown(value: float | None) -> float:
    return UNKNOWN if value is None else value
