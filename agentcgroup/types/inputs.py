# SPDX-License-Identifier: Apache-2.0
"""Everything policy may see. `t_ns` is CLOCK_MONOTONIC and never goes back.

Times ride in the input because policy has no clock; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .intents import Intent, Priority
from .sessions import Mode

__all__ = [
    "AgentSample",
    "CallBegin",
    "CallEnd",
    "CallRestored",
    "CallSample",
    "CallUpdate",
    "CallWithdrawn",
    "HostBudget",
    "Input",
    "MemoryHigh",
    "PastPeak",
    "SessionBegin",
    "SessionEnd",
    "SessionUpdate",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class HostBudget:
    """Memory all sessions together may hold."""

    t_ns: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class SessionBegin:
    """`budget_bytes` None = bounded by the host only; `reserve_bytes` is kept for the agent."""

    t_ns: int
    session: str
    priority: Priority
    budget_bytes: int | None
    reserve_bytes: int
    mode: Mode = Mode.ENFORCE
    cpu_cores: float | None = None


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """New figures of a session; `None` leaves one as it is."""

    t_ns: int
    session: str
    priority: Priority | None = None
    budget_bytes: int | None = None
    reserve_bytes: int | None = None
    mode: Mode | None = None
    cpu_cores: float | None = None


@dataclass(frozen=True, slots=True)
class SessionEnd:
    t_ns: int
    session: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    t_ns: int
    session: str
    call: str
    intent: Intent


@dataclass(frozen=True, slots=True)
class CallRestored:
    """A call found in the tree after a restart: it runs already, with this grant.

    A Tick has to follow the last of them; until then nobody is served from what the
    others, not known yet, may hold.
    """

    t_ns: int
    session: str
    call: str
    intent: Intent
    began_ns: int
    grant_bytes: int | None
    current_bytes: int
    frozen: bool


@dataclass(frozen=True, slots=True)
class CallUpdate:
    t_ns: int
    call: str
    intent: Intent


@dataclass(frozen=True, slots=True)
class CallWithdrawn:
    """The client of a queued begin went away."""

    t_ns: int
    call: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """`peak_bytes` is what the kernel saw, if the call was not cut short for another reason
    than memory: then its command is remembered with it."""

    t_ns: int
    call: str
    peak_bytes: int | None = None
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class PastPeak:
    """From the outcomes that were kept: what a command took before this daemon was here."""

    t_ns: int
    command: str
    peak_bytes: int
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class CallSample:
    """`reclaimable_bytes`: what memory.reclaim would get back of it, page cache and what it may
    swap out; None if nobody looked."""

    t_ns: int
    call: str
    current_bytes: int
    reclaimable_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AgentSample:
    """What a session holds outside of its calls: agent/, background, tmpfs of ended calls."""

    t_ns: int
    session: str
    current_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryHigh:
    """The kernel throttled a call at its grant (memory.events `high`, BPF or PSI)."""

    t_ns: int
    call: str
    current_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    t_ns: int


Input = (
    HostBudget
    | SessionBegin
    | SessionUpdate
    | SessionEnd
    | CallBegin
    | CallRestored
    | CallUpdate
    | CallWithdrawn
    | CallEnd
    | CallSample
    | AgentSample
    | MemoryHigh
    | PastPeak
    | Tick
)
