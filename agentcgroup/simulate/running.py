# SPDX-License-Identifier: Apache-2.0
"""Sessions and calls while they run, as the world and its governor share them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..types.limits import Limits
from .host import CallResult, SessionTotals
from .process import CallPlan, Process, SessionPlan

__all__ = ["RunningCall", "RunningSession"]


@dataclass(slots=True)
class RunningCall:
    """`process` is None until the call is placed; `version` outdates what was scheduled."""

    name: str
    session: RunningSession
    plan: CallPlan
    begun_ns: int
    result: CallResult
    process: Process | None = None
    version: int = 0
    frozen_since_ns: int | None = None
    dying: bool = False
    ended: bool = False
    limits: Limits | None = None
    line_told_ns: int = -(10**12)
    looked_bytes: float = 0.0
    looked_ns: int = 0
    look_ns: int = 0
    look_due_ns: int | None = None
    quiet: int = 0


@dataclass(slots=True)
class RunningSession:
    """`late_ns`: how much later than planned the session is; `agent_bytes` without its base."""

    plan: SessionPlan
    totals: SessionTotals
    calls_left: Iterator[CallPlan]
    agent_left: Iterator[tuple[int, int]]
    number: int = 0
    next_call: CallPlan | None = None
    next_agent: tuple[int, int] | None = None
    calls: dict[str, RunningCall] = field(default_factory=dict)
    late_ns: int = 0
    agent_bytes: int = 0
    agent_told_ns: int = -(10**12)
    agent_told_bytes: int = -1
    agent_due: bool = False
    version: int = 0
    entered: bool = False
    ended: bool = False
    cpu_next: int = 0
    cpu_cores: float = 0.0

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def agent_held_bytes(self) -> int:
        return self.agent_bytes + (self.plan.agent_base_bytes if self.entered else 0)

    @property
    def held_bytes(self) -> float:
        """Settled figures: whoever asks has brought them to now."""
        held = float(self.agent_held_bytes)
        for call in self.calls.values():
            if call.process is not None:
                held += call.process.held_bytes
        return held

    @property
    def trace_bytes(self) -> float:
        held = float(self.agent_bytes)
        for call in self.calls.values():
            if call.process is not None:
                held += call.process.trace_bytes
        return held
