# SPDX-License-Identifier: Apache-2.0
"""Task runs as the analysis sees them: samples in several readings, tool calls, messages.

The readings differ in what a printed size means (docs/analysis.md): `memory_mb` is right
(decimal MB); `memory_1024_mb` multiplies GB by 1024 and reads kB as 0, as most of the
authors' scripts do; `memory_cut_mb` also cuts three characters off a two-letter unit, as
one of them does. `cpu_average_pct` is podman's average since the container's start,
`cpu_load_pct` the load between two samples worked out from it. 100 % is one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array", "Call", "Message", "Run", "Summary", "Times", "is_valid", "labelled", "spread",
]  # fmt: skip

Array = npt.NDArray[np.float64]

# The authors' filter (analysis/filter_valid_tasks.py): what counts as a run that took place.
MIN_SAMPLES = 10
MIN_DURATION_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """Unix seconds; None where the record has none. In order of the source.

    `end_elsewhere`: tool_calls.json has no end, so the authors' scripts that read only that
    file know neither end nor command (their set of 18 tasks)."""

    tool: str
    begin_s: float | None
    end_s: float | None
    command: str = ""
    end_elsewhere: bool = False

    @property
    def duration_s(self) -> float:
        if self.begin_s is None or self.end_s is None:
            return 0.0
        return round(self.end_s - self.begin_s, 6)


@dataclass(frozen=True, slots=True)
class Message:
    """One model message. `records`: how many trace records repeat its usage;
    `output_record_sum`: its output tokens summed over them, as the authors count."""

    input_tokens: int
    cache_create_tokens: int
    cache_read_tokens: int
    output_tokens: int
    records: int
    output_record_sum: int
    output_is_whole: bool

    @property
    def context_tokens(self) -> int:
        return self.input_tokens + self.cache_create_tokens + self.cache_read_tokens


@dataclass(frozen=True, slots=True)
class Summary:
    """The recording's own summary: MB (10^6), percent of a core, seconds."""

    samples: int
    duration_s: float
    peak_mb: float
    mean_mb: float
    cpu_max_pct: float
    cpu_mean_pct: float


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `claude_s`: container start to its end; `active_s`: first to last record of the
    agent's own trace, None without one."""

    claude_s: float
    active_s: float | None
    permission_fix_s: float
    pull_s: float
    image_mb: float


@dataclass(frozen=True, slots=True)
class Run:
    """Arrays have one entry a sample."""

    name: str
    set_name: str
    epoch_s: Array
    memory_mb: Array
    memory_1024_mb: Array
    memory_cut_mb: Array
    cpu_average_pct: Array
    cpu_load_pct: Array
    calls: tuple[Call, ...]
    messages: tuple[Message, ...]
    summary: Summary | None
    times: Times | None
    success: bool | None

    @property
    def active_s(self) -> float:
        """As the authors: the whole container time where the trace is missing."""
        assert self.times is not None
        return self.times.claude_s if self.times.active_s is None else self.times.active_s


def labelled(runs: Sequence[Run]) -> list[Run]:
    """Without earlier attempts (`task@attempt_1`), which carry no label."""
    return [run for run in runs if "@attempt_" not in run.name]


def is_valid(run: Run) -> bool:
    summary = run.summary
    return (
        summary is not None
        and min(summary.samples, int((run.memory_mb > 0).sum())) >= MIN_SAMPLES
        and summary.duration_s >= MIN_DURATION_S
    )


def spread(values: Any) -> dict[str, Any]:
    """n, mean, median, min, max, p95 (linear interpolation); nulls without values."""
    if len(values) == 0:
        return {"n": 0, "mean": None, "median": None, "min": None, "max": None, "p95": None}
    array = np.asarray(values, dtype=float)
    return {
        "n": len(array),
        "mean": float(array.mean()),
        "median": float(np.median(array)),
        "min": float(array.min()),
        "max": float(array.max()),
        "p95": float(np.percentile(array, 95)),
    }
