# SPDX-License-Identifier: Apache-2.0
"""What policy remembers between two inputs. Bytes and nanoseconds throughout.

`grant_bytes` is the memory.high a call holds; None means unlimited (mode off).
A call *holds* max(grant, current): an overshoot counts until it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ..types.intents import Intent, Priority
from ..types.limits import Limits
from ..types.sessions import Mode
from ..units import MIB, NS_PER_S

__all__ = ["CallPhase", "CallState", "PolicyConfig", "PolicyState", "SessionState"]


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Tunables; defaults follow the repository's benchmarks.

    default_grant_bytes: first line drawn for a call that declared nothing.
    min_grant_bytes: below this nothing is admitted.
    step_bytes: smallest raise; a raise also grows with the grant (a quarter of it).
    throttle_max_ns: how long a call may sleep at its grant before it is frozen.
    shrink_after_ns: how long a grant must be unused before it is taken back.
    share_weights: of high, normal and low sessions for their fair share of the host.
    deadlock_after_ns: all wait and none can finish for this long -> one kill.
    """

    default_grant_bytes: int = 128 * MIB
    min_grant_bytes: int = 16 * MIB
    step_bytes: int = 32 * MIB
    throttle_max_ns: int = 250_000_000
    shrink_after_ns: int = 200_000_000
    deadlock_after_ns: int = 1 * NS_PER_S
    term_grace_ns: int = 5 * NS_PER_S
    default_pids_max: int = 512
    default_max_wait_s: float = 300.0
    share_weights: tuple[int, int, int] = (4, 2, 1)


class CallPhase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FROZEN = "frozen"
    TERMINATING = "terminating"
    KILLED = "killed"


@dataclass(slots=True)
class CallState:
    name: str
    session: str
    intent: Intent
    begun_ns: int
    phase: CallPhase = CallPhase.QUEUED
    limits: Limits = field(default_factory=Limits)
    grant_bytes: int = 0
    cap_bytes: int = 0
    current_bytes: int = 0
    started_ns: int = 0
    peak_bytes: int = 0
    blocked_since_ns: int | None = None
    frozen_since_ns: int | None = None
    unused_since_ns: int | None = None
    kill_at_ns: int | None = None

    @property
    def held_bytes(self) -> int:
        if self.phase is CallPhase.QUEUED:
            return 0
        return max(self.grant_bytes, self.current_bytes)

    @property
    def runs(self) -> bool:
        return self.phase in (CallPhase.RUNNING, CallPhase.FROZEN)


@dataclass(slots=True)
class SessionState:
    name: str
    priority: Priority
    budget_bytes: int | None
    reserve_bytes: int
    mode: Mode
    cpu_cores: float | None = None
    agent_bytes: int = 0
    calls: dict[str, CallState] = field(default_factory=dict)

    @property
    def overhead_bytes(self) -> int:
        """Kept for the agent, or already taken by it."""
        return max(self.reserve_bytes, self.agent_bytes)

    @property
    def held_bytes(self) -> int:
        return self.overhead_bytes + sum(call.held_bytes for call in self.calls.values())


@dataclass(slots=True)
class PolicyState:
    config: PolicyConfig
    budget_bytes: int
    sessions: dict[str, SessionState] = field(default_factory=dict)
    calls: dict[str, CallState] = field(default_factory=dict)
    stuck_since_ns: int | None = None
    last_ns: int = 0
