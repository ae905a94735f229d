# SPDX-License-Identifier: Apache-2.0
"""Many agents that work for a long time: recorded sessions one after another, drawn by seed.

Calls and levels are made as they are asked for, so that a long run takes no more memory
than a short one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..trace.jobs import SessionJob
from ..types.intents import Priority
from .plans import session_plan
from .process import CallPlan, SessionPlan

__all__ = ["fleet"]

_PAUSE_NS = 1_000_000_000


def fleet(
    jobs: Sequence[SessionJob], agents: int, duration_s: float, *, seed: int = 0,
    priorities: Sequence[Priority] = (Priority.NORMAL,),
) -> list[SessionPlan]:  # fmt: skip
    """Each agent begins at a random place of its first session's length and plays sessions
    until `duration_s`; priorities are dealt in turn."""
    parts = [(part, _length_ns(part)) for part in (session_plan(job, 1.0) for job in jobs)]
    return [
        _agent(number, parts, int(duration_s * 1e9), seed, priorities[number % len(priorities)])
        for number in range(agents)
    ]


def _agent(
    number: int,
    parts: Sequence[tuple[SessionPlan, int]],
    duration_ns: int,
    seed: int,
    priority: Priority,
) -> SessionPlan:
    key = f"{seed}/{number}"
    return replace(
        parts[0][0],
        name=f"agent-{number}",
        priority=priority.value,
        calls=_calls(parts, duration_ns, key),
        agent_levels=_levels(parts, duration_ns, key),
        cpu=(),
        need_bytes=max(part.need_bytes for part, _ in parts),
        mean_bytes=max(part.mean_bytes for part, _ in parts),
        trace_peak_bytes=0,
    )


def _placed(
    parts: Sequence[tuple[SessionPlan, int]], duration_ns: int, key: str
) -> Iterator[tuple[SessionPlan, int]]:
    """Which sessions an agent plays, and when each begins. The same for the same key."""
    draw = random.Random(key)
    part, length_ns = draw.choice(parts)
    begin_ns = draw.randrange(max(1, length_ns))
    while begin_ns < duration_ns:
        yield part, begin_ns
        begin_ns += length_ns + _PAUSE_NS
        part, length_ns = draw.choice(parts)


def _length_ns(part: SessionPlan) -> int:
    levels, calls = part.agent_levels, part.calls
    assert isinstance(levels, Sequence)
    assert isinstance(calls, Sequence)
    ends: list[int] = [call.end_ns for call in calls]
    return max([levels[-1][0] if levels else 0, *ends])


def _calls(
    parts: Sequence[tuple[SessionPlan, int]], duration_ns: int, key: str
) -> Iterator[CallPlan]:
    for part, begin_ns in _placed(parts, duration_ns, key):
        for call in part.calls:
            if call.begin_ns + begin_ns < duration_ns:
                yield call.later(begin_ns)


def _levels(
    parts: Sequence[tuple[SessionPlan, int]], duration_ns: int, key: str
) -> Iterator[tuple[int, int]]:
    for part, begin_ns in _placed(parts, duration_ns, key):
        for at_ns, size in part.agent_levels:
            if at_ns + begin_ns < duration_ns:
                yield at_ns + begin_ns, size
