# SPDX-License-Identifier: Apache-2.0
"""Time as a parameter: whoever needs it takes a Clock, tests hand in a FakeClock.

All times are nanoseconds of CLOCK_MONOTONIC, the clock BPF programs stamp with.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "FakeClock", "MonotonicClock"]


class Clock(Protocol):
    def now_ns(self) -> int: ...


class MonotonicClock:
    def now_ns(self) -> int:
        return time.monotonic_ns()


class FakeClock:
    """Advances only when told to."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance_ns(self, delta_ns: int) -> None:
        if delta_ns < 0:
            raise ValueError(f"time cannot go back by {-delta_ns} ns")
        self._now_ns += delta_ns
