# SPDX-License-Identifier: Apache-2.0
"""How a tool call ended, why, and what to try next (DESIGN: outcome and feedback).

Bytes, seconds and milliseconds as the names say. `None` means the kernel did not
tell, never 0. Command lines come from untrusted code: printable and at most 64
characters.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..errors import EXIT_REFUSED

__all__ = ["EXIT_OF_REASON", "BiggestProcess", "Level", "Outcome", "Reason", "Retry"]


class Reason(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    OOM_KILLED = "oom_killed"
    TIMED_OUT = "timed_out"
    KILLED_BY_POLICY = "killed_by_policy"
    REFUSED = "refused"
    STOPPED_BY_SUPERVISOR = "stopped_by_supervisor"
    LOST = "lost"


# What a command's exit status becomes, where the reason says more than the status does.
EXIT_OF_REASON = {
    Reason.OOM_KILLED: 137,
    Reason.KILLED_BY_POLICY: 137,
    Reason.TIMED_OUT: 124,
    Reason.STOPPED_BY_SUPERVISOR: 143,
    Reason.REFUSED: EXIT_REFUSED,
}


class Level(StrEnum):
    """Which limit hit: the call's own, tools/, the session's or the host's."""

    CALL = "call"
    TOOLS = "tools"
    SESSION = "session"
    HOST = "host"


class _Record(BaseModel):
    # A client may be older than its daemon: what it does not know it drops.
    model_config = ConfigDict(frozen=True, extra="ignore")


class BiggestProcess(_Record):
    pid: int
    command: str
    rss_bytes: int | None = None


class Retry(_Record):
    """`intent` is what to declare next time, when a retry is worthwhile."""

    worthwhile: bool
    intent: dict[str, Any] | None = None


class Outcome(_Record):
    call: str
    session: str
    reason: Reason
    level: Level | None = None
    label: str | None = None
    command: str | None = None
    peak_memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    learned_memory_bytes: int | None = None
    cpu_s: float | None = None
    throttled_ms: float | None = None
    waited_ms: float | None = None
    frozen_ms: float | None = None
    pids_peak: int | None = None
    pids_limit_hits: int | None = None
    io_bytes: int | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    background_pids: list[int] = []
    biggest_process: BiggestProcess | None = None
    retry: Retry | None = None
    message: str = ""
    ended_epoch_s: float | None = None

    @property
    def ok(self) -> bool:
        return self.reason is Reason.COMPLETED
