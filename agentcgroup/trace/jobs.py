# SPDX-License-Identifier: Apache-2.0
"""From traces to what is played: one job a session, levels and calls in it. Pure.

Session granularity: one list of samples. Tool granularity: the agent's levels and, for
each tool call, its own samples from its begin. Memory excludes `base_memory`, which the
process that stands for the session holds besides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from ..types.intents import Intent, Priority
from .load import load_session_trace
from .model import CallSpan, Sample, SessionTrace, thin_out

__all__ = [
    "PROCESS_BYTES", "CallJob", "DeclaredIntent", "Granularity", "JobChoices", "SessionJob",
    "load_jobs", "make_jobs",
]  # fmt: skip

# What a replayed process costs beside what it plays: 0.3 MiB, and page tables of a 512th of what it
# holds (measured by memory.current, 100 to 2,148 MiB). This is enough for 2 GiB.
PROCESS_BYTES = 5 << 20


class Granularity(StrEnum):
    """session: one process replays the whole session; tool: one process a tool call."""

    SESSION = "session"
    TOOL = "tool"


class DeclaredIntent(StrEnum):
    """What replayed calls declare: nothing, their true peak, or the peak ± 50 %."""

    NONE = "none"
    PEAK = "peak"
    NOISY = "noisy"


class JobChoices(Protocol):
    """What decides how a trace is cut into jobs; replay and simulation have it in their options."""

    @property
    def base_memory_bytes(self) -> int: ...
    @property
    def granularity(self) -> Granularity: ...
    @property
    def intent(self) -> DeclaredIntent: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CallJob:
    """One process to run in a leaf of its own. `samples` are seconds from `begin_s`."""

    begin_s: float
    end_s: float
    tool: str
    samples: tuple[Sample, ...]
    base_bytes: int
    intent: Intent

    @property
    def peak_bytes(self) -> int:
        return max(size for _, size in self.samples)


@dataclass(frozen=True, slots=True)
class SessionJob:
    """`agent` is None in session granularity: then the one call is the session."""

    name: str
    priority: Priority
    trace: SessionTrace
    calls: tuple[CallJob, ...]
    agent: tuple[Sample, ...] | None
    base_bytes: int

    @property
    def need_bytes(self) -> int:
        """The most that the session's processes hold at one time, played as recorded."""
        if self.agent is None:
            return self.trace.peak_bytes + self.base_bytes + PROCESS_BYTES
        moves = _moves(self.agent)
        for call in self.calls:
            held = [(call.begin_s + at_s, size) for at_s, size in call.samples]
            own = PROCESS_BYTES + call.base_bytes
            moves += [(call.begin_s, own), *_moves(held)]
            moves.append((call.end_s, -own - held[-1][1]))
        # Who gives back comes first where two move at the same time.
        most = max(accumulate((size for _, size in sorted(moves)), initial=0))
        return most + self.base_bytes + PROCESS_BYTES

    @property
    def mean_need_bytes(self) -> int:
        return self.trace.mean_bytes + self.base_bytes + PROCESS_BYTES


def _moves(levels: Sequence[Sample]) -> list[tuple[float, int]]:
    """Levels as changes: (seconds, bytes more or less)."""
    before = [0, *(size for _, size in levels)]
    return [(at_s, size - last) for (at_s, size), last in zip(levels, before, strict=False)]


def load_jobs(
    paths: Sequence[Path], priorities: Sequence[Priority], options: JobChoices
) -> list[SessionJob]:
    """FormatError names the trace that can't be read."""
    return make_jobs([load_session_trace(path) for path in paths], priorities, options)


def make_jobs(
    traces: Sequence[SessionTrace], priorities: Sequence[Priority], options: JobChoices
) -> list[SessionJob]:
    names = _unique([trace.name for trace in traces])
    return [
        _job(trace, name, priority, options)
        for trace, name, priority in zip(traces, names, priorities, strict=True)
    ]


def _job(trace: SessionTrace, name: str, priority: Priority, options: JobChoices) -> SessionJob:
    draw = random.Random(f"{options.seed}/{name}")
    base = options.base_memory_bytes
    if options.granularity is Granularity.SESSION:
        samples = thin_out(trace.samples, trace.step_bytes)
        whole = CallJob(
            0.0, trace.duration_s, "session", samples, base,
            _intent(trace.peak_bytes + base + PROCESS_BYTES, options.intent, draw, "session"),
        )  # fmt: skip
        return SessionJob(name, priority, trace, (whole,), None, base)
    calls = tuple(_call(span, trace.step_bytes, options.intent, draw) for span in trace.calls)
    agent = thin_out(trace.agent_samples or trace.samples, trace.step_bytes)
    return SessionJob(name, priority, trace, calls, agent, base)


def _call(span: CallSpan, step_bytes: int, kind: DeclaredIntent, draw: random.Random) -> CallJob:
    last = span.samples[-1][1] if span.samples else 0
    samples = thin_out(((0.0, 0), *span.samples, (span.duration_s, last)), step_bytes)
    peak = span.peak_bytes + PROCESS_BYTES
    return CallJob(
        span.begin_s, span.end_s, span.tool, samples, 0, _intent(peak, kind, draw, span.tool)
    )


def _intent(peak_bytes: int, kind: DeclaredIntent, draw: random.Random, label: str) -> Intent:
    if kind is DeclaredIntent.NONE:
        return Intent(label=label)
    factor = draw.uniform(0.5, 1.5) if kind is DeclaredIntent.NOISY else 1.0
    return Intent(label=label, memory=max(1 << 20, int(peak_bytes * factor)))


def _unique(names: Sequence[str]) -> list[str]:
    """Usable as session names: twins get -2, -3; foreign characters become a dot."""
    used: set[str] = set()
    result: list[str] = []
    for given in names:
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_.:@-") else "." for c in given)
        stem = plain.lstrip("_.:@-")[:56] or "session"
        if stem in {"agent", "tools", "background", "keeper"}:
            stem = f"{stem}-1"
        name, number = stem, 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        used.add(name)
        result.append(name)
    return result
