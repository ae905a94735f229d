# SPDX-License-Identifier: Apache-2.0
"""What the daemon saw of a session between two steps of its agent. Absent is unknown."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HostSignals"]


@dataclass(frozen=True, slots=True)
class HostSignals:
    """Counts and sums since the step before; shares of the session's budget (0 to 1).

    `repeated`: calls whose command was among the session's last ones; `silent_s`: since the
    last call began or ended.
    """

    calls: int = 0
    failed: int = 0
    oom_killed: int = 0
    timed_out: int = 0
    repeated: int = 0
    cpu_s: float | None = None
    peak_share: float | None = None
    silent_s: float | None = None
