# SPDX-License-Identifier: Apache-2.0
"""How long an allocation above its grant is held back. Pure; ratios are parts of the grant.

`delay_ms` is the only place with the arithmetic. The kernel's program can't call it, so
`delay_curve` tabulates it for one call, and the program looks usage up in that table
exactly as `DelayCurve.delay` does. A simulator may use either.

A call may overshoot by its burst credit for nothing; credit grows while it stays below its
line. Beyond, the delay grows with the square of the overshoot, as the kernel's own penalty
does, up to a bound. Hysteresis: delays begin above the whole credit and end below half of it,
so that a call at the edge is not delayed on and off. High priority is never delayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InvalidValueError
from ..types.intents import Latency, Priority

__all__ = [
    "CEILING_MS", "STEPS", "DelayCurve", "DelayTuning", "burst_credit", "delay_curve", "delay_ms",
]  # fmt: skip

CEILING_MS = 2000  # the module cuts here, too
STEPS = 16

_PRIORITY_WEIGHT = {Priority.HIGH: 0.0, Priority.NORMAL: 0.5, Priority.LOW: 1.0}
_LATENCY_WEIGHT = {Latency.INTERACTIVE: 0.25, Latency.STANDARD: 0.5, Latency.BATCH: 1.0}
_LATENCY_CREDIT = {Latency.INTERACTIVE: 2.0, Latency.STANDARD: 1.0, Latency.BATCH: 0.5}
_LEAST_CREDIT = 1 / 64
_CREDIT_FULL_S = 2.0


@dataclass(frozen=True, slots=True)
class DelayTuning:
    """max_ms: the longest delay. burst_pct: full credit. window_pct: from none to the longest."""

    max_ms: int = 200
    burst_pct: int = 12
    window_pct: int = 25

    def __post_init__(self) -> None:
        for field, value, least, most in (
            ("max_ms", self.max_ms, 1, CEILING_MS),
            ("burst_pct", self.burst_pct, 0, 100),
            ("window_pct", self.window_pct, 1, 1000),
        ):
            if not least <= value <= most:
                raise InvalidValueError(field, value, f"use a number between {least} and {most}")


@dataclass(frozen=True, slots=True)
class DelayCurve:
    """`delay_ms` for one call: `STEPS` steps of `step_bytes` upwards from `stop_bytes`."""

    start_bytes: int
    stop_bytes: int
    step_bytes: int
    delay_ms: tuple[int, ...]

    def delay(self, usage_bytes: int, *, delayed: bool) -> int:
        """The delay at this usage; `delayed`: the allocation before was held back."""
        if usage_bytes <= (self.stop_bytes if delayed else self.start_bytes):
            return 0
        step = (usage_bytes - self.stop_bytes) // self.step_bytes
        return self.delay_ms[min(step, STEPS - 1)]


def burst_credit(calm_s: float, latency: Latency, tuning: DelayTuning) -> float:
    """Free overshoot of a call that has been below its line for `calm_s` seconds."""
    earned = min(1.0, max(0.0, calm_s) / _CREDIT_FULL_S)
    return max(_LEAST_CREDIT, earned * _LATENCY_CREDIT[latency] * tuning.burst_pct / 100)


def delay_ms(
    over: float,
    credit: float,
    priority: Priority,
    latency: Latency,
    tuning: DelayTuning,
    *,
    delayed: bool = False,
) -> int:
    """Milliseconds for an allocation that leaves usage `over` its grant; 0 or 1..max_ms."""
    weight = _PRIORITY_WEIGHT[priority] * _LATENCY_WEIGHT[latency]
    if weight == 0 or over <= (credit / 2 if delayed else credit):
        return 0
    reach = min(1.0, (over - credit / 2) / (tuning.window_pct / 100))
    wanted = math.ceil(tuning.max_ms * weight * reach * reach)
    return max(1, min(wanted, tuning.max_ms, CEILING_MS))


def delay_curve(
    grant_bytes: int, credit: float, priority: Priority, latency: Latency, tuning: DelayTuning
) -> DelayCurve | None:
    """The table for a call with this grant; None if it is never delayed."""
    if grant_bytes <= 0 or _PRIORITY_WEIGHT[priority] == 0:
        return None
    stop = grant_bytes + int(grant_bytes * credit / 2)
    step = max(1, grant_bytes * tuning.window_pct // 100 // STEPS)
    middles = (stop + index * step + step / 2 for index in range(STEPS - 1))
    # The last one holds for everything above it.
    overs = [*(middle / grant_bytes - 1 for middle in middles), math.inf]
    return DelayCurve(
        start_bytes=grant_bytes + int(grant_bytes * credit),
        stop_bytes=stop,
        step_bytes=step,
        delay_ms=tuple(
            delay_ms(over, credit, priority, latency, tuning, delayed=True) for over in overs
        ),
    )
