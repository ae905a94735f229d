# SPDX-License-Identifier: Apache-2.0
"""A session as replay and analysis see it, whatever file it came from.

Seconds from the session's first sample, bytes of memory in use by the whole session.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CallSpan", "Sample", "SessionTrace"]

Sample = tuple[float, int]


@dataclass(frozen=True, slots=True)
class CallSpan:
    """One tool call. `samples`: seconds from its begin, bytes it held itself.

    `peak_bytes` is the largest of them, 0 for a call that no sample fell into.
    """

    begin_s: float
    end_s: float
    tool: str
    command: str | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def peak_bytes(self) -> int:
        return max((size for _, size in self.samples), default=0)

    @property
    def duration_s(self) -> float:
        return self.end_s - self.begin_s


@dataclass(frozen=True, slots=True)
class SessionTrace:
    """`agent_samples`: what is left of `samples` without the calls (the baseline).

    `cpu_samples`: seconds, cumulative CPU seconds; empty if unknown. `step_bytes`: moves
    below it are noise of the recording. `notes` says what the reader had to leave out.
    `epoch_s`: Unix time of the first sample, 0 if unknown.
    """

    name: str
    samples: tuple[Sample, ...]
    calls: tuple[CallSpan, ...] = ()
    agent_samples: tuple[Sample, ...] = ()
    cpu_samples: tuple[tuple[float, float], ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    step_bytes: int = 0
    epoch_s: float = 0.0

    @property
    def peak_bytes(self) -> int:
        return max(size for _, size in self.samples)

    @property
    def mean_bytes(self) -> int:
        return sum(size for _, size in self.samples) // len(self.samples)

    @property
    def duration_s(self) -> float:
        return self.samples[-1][0]


@dataclass(slots=True)
class _OpenCall:
    """A call while its samples are being handed out."""

    begin_s: float
    end_s: float
    tool: str
    command: str | None
    level_bytes: int = 0
    samples: list[Sample] = field(default_factory=list)


def split_calls(
    samples: tuple[Sample, ...], spans: list[CallSpan]
) -> tuple[tuple[CallSpan, ...], tuple[Sample, ...]]:
    """Divide the session's memory between its calls and the agent's baseline.

    While calls run, the baseline stays at the level of the last sample before them;
    what is above belongs to the call begun last, less what the other running calls
    hold. So at every sample baseline + calls = the session (or more, if the session
    falls below the level that preceded the call).
    """
    todo = sorted(
        (_OpenCall(s.begin_s, s.end_s, s.tool, s.command) for s in spans),
        key=lambda c: (c.begin_s, -c.end_s),
    )
    running: list[_OpenCall] = []
    baseline: list[Sample] = []
    level = samples[0][1]
    following = 0
    for at_s, size in samples:
        while following < len(todo) and todo[following].begin_s <= at_s:
            running.append(todo[following])
            following += 1
        running = [call for call in running if call.end_s >= at_s]
        if not running:
            level = size
            baseline.append((at_s, level))
            continue
        baseline.append((at_s, min(level, size)))
        newest = running[-1]
        others = sum(call.level_bytes for call in running[:-1])
        newest.level_bytes = max(0, size - level - others)
        newest.samples.append((at_s - newest.begin_s, newest.level_bytes))
    calls = tuple(CallSpan(c.begin_s, c.end_s, c.tool, c.command, tuple(c.samples)) for c in todo)
    return calls, tuple(baseline)


def thin_out(samples: tuple[Sample, ...], step_bytes: int) -> tuple[Sample, ...]:
    """Leave out samples that move less than `step_bytes`; keeps first, last and the peak."""
    peak = max(size for _, size in samples)
    kept: list[Sample] = [samples[0]]
    for sample in samples[1:-1]:
        moved = abs(sample[1] - kept[-1][1])
        if moved >= step_bytes or (sample[1] == peak and kept[-1][1] != peak):
            kept.append(sample)
    if len(samples) > 1:
        kept.append(samples[-1])
    return tuple(kept)
