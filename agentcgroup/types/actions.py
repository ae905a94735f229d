# SPDX-License-Identifier: Apache-2.0
"""What policy asks for. Every action says why; that reason goes to log, feedback and `why`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .limits import Limits

__all__ = [
    "Action",
    "Because",
    "Code",
    "Freeze",
    "Kill",
    "Place",
    "Reclaim",
    "Refuse",
    "SetGrant",
    "SetLimits",
    "Terminate",
    "Thaw",
    "Wait",
]


class Code(StrEnum):
    """Closed list of reasons, stable for traces."""

    ADMITTED = "admitted"
    RESTORED = "restored"
    UPDATED = "updated"
    NO_MEMORY_FREE = "no_memory_free"
    BEHIND_OTHERS = "behind_others"
    OVER_BUDGET = "over_budget"
    REPEATS_OOM = "repeats_oom"
    REPLANNED = "replanned"
    WAITED_TOO_LONG = "waited_too_long"
    GROWING = "growing"
    UNUSED = "unused"
    RECLAIM_FOR_WAITING = "reclaim_for_waiting"
    YIELD_TO_HIGHER = "yield_to_higher"
    THROTTLED_TOO_LONG = "throttled_too_long"
    GRANTED_AGAIN = "granted_again"
    DEADLOCK = "deadlock"
    SESSION_FULL = "session_full"
    HOST_FULL = "host_full"
    ON_EXCEED_KILL = "on_exceed_kill"
    TIMEOUT = "timeout"
    GRACE_OVER = "grace_over"
    SESSION_ENDED = "session_ended"


@dataclass(frozen=True, slots=True)
class Because:
    """`text` is a plain clause for people; `figures` are bytes, ms or counts by name."""

    code: Code
    text: str
    figures: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Admit the call: make its leaf with these limits and let it run."""

    session: str
    call: str
    limits: Limits
    because: Because


@dataclass(frozen=True, slots=True)
class Wait:
    """Queue the call; a later Place or Refuse ends the wait."""

    session: str
    call: str
    because: Because


@dataclass(frozen=True, slots=True)
class Refuse:
    """`kind` is the protocol's error kind; `remedy` what the agent can do."""

    session: str
    call: str
    kind: str
    remedy: str
    because: Because


@dataclass(frozen=True, slots=True)
class SetGrant:
    """memory.high := grant_bytes (None = max). Raising wakes sleepers, lowering reclaims."""

    session: str
    call: str
    grant_bytes: int | None
    because: Because


@dataclass(frozen=True, slots=True)
class SetLimits:
    session: str
    call: str
    limits: Limits
    because: Because


@dataclass(frozen=True, slots=True)
class Reclaim:
    """memory.reclaim: give page cache back, as much of `amount_bytes` as there is."""

    session: str
    call: str
    amount_bytes: int
    because: Because


@dataclass(frozen=True, slots=True)
class Freeze:
    session: str
    call: str
    because: Because


@dataclass(frozen=True, slots=True)
class Thaw:
    session: str
    call: str
    because: Because


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM to every process of the call; a Kill follows when the grace is over."""

    session: str
    call: str
    because: Because


@dataclass(frozen=True, slots=True)
class Kill:
    """cgroup.kill. `reason` is the outcome's (timed_out, killed_by_policy or oom_killed)."""

    session: str
    call: str
    reason: str
    because: Because


Action = Place | Wait | Refuse | SetGrant | SetLimits | Reclaim | Freeze | Thaw | Terminate | Kill
