# SPDX-License-Identifier: Apache-2.0
"""What all processes hold together, as a line over time: between two events it is straight."""

from __future__ import annotations

from .host import Result

__all__ = ["PAGE_BYTES", "MemoryTotal"]

# What is beyond the budget by less than a page is rounding.
PAGE_BYTES = 4096


class MemoryTotal:
    """`held_bytes` at the last `flow`; `rate` in bytes per ns."""

    def __init__(self, budget_bytes: int, result: Result) -> None:
        self._budget_bytes = budget_bytes
        self._result = result
        self.held_bytes = 0.0
        self.rate = 0.0
        self._since_ns = 0

    def flow(self, now_ns: int) -> None:
        """Up to now, with what is above the budget counted."""
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns <= 0:
            return
        self._since_ns = now_ns
        low, limit = self.held_bytes, self._budget_bytes + 2 * PAGE_BYTES
        if self.rate:  # nobody gives back bit by bit, so it is never below 0
            self.held_bytes += self.rate * elapsed_ns
            self._result.most_held_bytes = max(self._result.most_held_bytes, self.held_bytes)
        high = self.held_bytes
        if high > limit:
            share = 1.0 if low >= limit else (high - limit) / (high - low)
            self._result.overrun_ns += int(share * elapsed_ns)

    def change(self, now_ns: int, size_bytes: float, rate: float = 0.0) -> None:
        """From now on. Without anybody growing the rate is 0 and not a rounding of it."""
        self.flow(now_ns)
        if not size_bytes and not rate:
            return
        self.held_bytes += size_bytes
        self.rate += rate
        if abs(self.rate) < 1e-6:
            self.rate = 0.0
        self._result.most_held_bytes = max(self._result.most_held_bytes, self.held_bytes)

    def full_at_ns(self, now_ns: int) -> int | None:
        """When the budget will be exceeded if nothing changes."""
        left = self._budget_bytes + PAGE_BYTES - self.held_bytes
        if left < 0:
            return now_ns
        if self.rate <= 0:
            return None
        return now_ns + int(left / self.rate) + 1
