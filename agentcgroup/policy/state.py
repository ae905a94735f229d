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
from .kept import Kept
from .learning import Learned

__all__ = [
    "CallPhase", "CallState", "PastOom", "PolicyConfig", "PolicyState", "RepeatOom", "SessionState",
]  # fmt: skip

_LEAST_INTERVAL_NS = 1_000_000
_NO_LIMITS = Limits()


class RepeatOom(StrEnum):
    """A command that would run out of memory again: no, with more memory, or as it likes."""

    REFUSE = "refuse"
    REPLAN = "replan"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Tunables; defaults follow the repository's benchmarks.

    default_grant_bytes: first line drawn for a call that declared nothing.
    min_grant_bytes: below this nothing is admitted.
    step_bytes: smallest raise; a raise also grows with the grant (a quarter of it) and with
        the call's measured growth: what it takes within growth_horizon_ns.
    throttle_max_ns: how long a call may sleep at its grant before it is frozen.
    shrink_after_ns: how long a grant must be unused before it is taken back.
    share_weights: of high, normal and low sessions for their fair share of the host.
    partial_start_pct: a call begins with this much of what it declared, if no more is free.
    elder_room_pct: the eldest of a priority keeps room to grow by this much from its equals.
    claim_pct: what a call may come to need of what it declared or its command took before.
    reach_bytes, reach_pct: what an unknown call may come to need, in the eyes of a settled one:
        this much, or this much of its peak.
    settled_room_pct: a call that asks for no more than this above its mean is settled.
    reclaim_every_ns: memory is asked back for who waits no more often than this.
    deadlock_after_ns: all wait and none can finish for this long -> one kill; and who holds
        all its session could give waits this long for more.
    repeat_oom: what becomes of a command that was killed for memory and comes again unchanged.
    """

    default_grant_bytes: int = 128 * MIB
    min_grant_bytes: int = 16 * MIB
    step_bytes: int = 32 * MIB
    throttle_max_ns: int = 250_000_000
    shrink_after_ns: int = 200_000_000
    reclaim_every_ns: int = 100_000_000
    deadlock_after_ns: int = 1 * NS_PER_S
    term_grace_ns: int = 5 * NS_PER_S
    default_pids_max: int = 512
    default_max_wait_s: float = 300.0
    share_weights: tuple[int, int, int] = (4, 2, 1)
    partial_start_pct: int = 25
    elder_room_pct: int = 75
    claim_pct: int = 130
    reach_bytes: int = 512 * MIB
    reach_pct: int = 125
    settled_room_pct: int = 30
    growth_horizon_ns: int = 50_000_000
    repeat_oom: RepeatOom = RepeatOom.REFUSE


class CallPhase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FROZEN = "frozen"
    TERMINATING = "terminating"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class PastOom:
    """`filled`: it took all it may, so that nobody else was to blame. `exhausted`: it was all
    its session had then, which varies with what the agent takes."""

    call: str
    cap_bytes: int
    swap_bytes: int
    peak_bytes: int
    filled: bool
    exhausted: bool = False


@dataclass(slots=True)
class CallState:
    name: str
    session: str
    intent: Intent
    begun_ns: int
    phase: CallPhase = CallPhase.QUEUED
    limits: Limits = _NO_LIMITS
    learned_bytes: int | None = None
    grant_bytes: int = 0
    cap_bytes: int = 0
    current_bytes: int = 0
    current_ns: int = 0
    reclaimable_bytes: int = 0
    growth_bytes_per_s: int = 0
    started_ns: int = 0
    peak_bytes: int = 0
    mean_bytes: int = 0
    blocked_since_ns: int | None = None
    frozen_since_ns: int | None = None
    unused_since_ns: int | None = None
    kill_at_ns: int | None = None
    replanned: str | None = None
    exhausted: bool = False
    full_since_ns: int | None = None
    counted_bytes: int = 0
    counted_rank: int = -1

    @property
    def expected_bytes(self) -> int | None:
        """Declared, else learned from its command."""
        return self.learned_bytes if self.intent.memory is None else self.intent.memory

    @property
    def held_bytes(self) -> int:
        if self.phase is CallPhase.QUEUED:
            return 0
        return max(self.grant_bytes, self.current_bytes)

    def note_usage(self, now_ns: int, current_bytes: int) -> None:
        """Growth is the last measured one, or half of the one before if that is more: bursts
        come in steps with short rests between them."""
        elapsed_ns = now_ns - self.current_ns
        if elapsed_ns >= _LEAST_INTERVAL_NS:
            age_ns = now_ns - self.started_ns
            if elapsed_ns < age_ns:
                self.mean_bytes += (self.current_bytes - self.mean_bytes) * elapsed_ns // age_ns
            gained = max(0, current_bytes - self.current_bytes)
            self.growth_bytes_per_s = max(
                gained * NS_PER_S // elapsed_ns, self.growth_bytes_per_s // 2
            )
            self.current_ns = now_ns
        self.current_bytes = current_bytes
        self.peak_bytes = max(self.peak_bytes, current_bytes)

    @property
    def runs(self) -> bool:
        return self.phase in (CallPhase.RUNNING, CallPhase.FROZEN)

    @property
    def waits(self) -> bool:
        """In the queue, at its line, or frozen."""
        return (self.runs and self.blocked_since_ns is not None) or self.phase is CallPhase.QUEUED

    @property
    def is_timed(self) -> bool:
        return self.phase is CallPhase.TERMINATING or self.intent.timeout_s is not None


@dataclass(slots=True)
class SessionState:
    name: str
    priority: Priority
    budget_bytes: int | None
    reserve_bytes: int
    mode: Mode
    cpu_cores: float | None = None
    agent_bytes: int = 0
    calls_held_bytes: int = 0
    calls: dict[str, CallState] = field(default_factory=dict)
    oomed: dict[bytes, PastOom] = field(default_factory=dict)

    @property
    def overhead_bytes(self) -> int:
        """Kept for the agent, or already taken by it."""
        return max(self.reserve_bytes, self.agent_bytes)

    @property
    def held_bytes(self) -> int:
        return self.overhead_bytes + self.calls_held_bytes


@dataclass(slots=True)
class PolicyState:
    """An event costs what it moves, however many sessions and calls there are; so beside the
    calls there are, kept by `note`, `note_held` and `drop_call`: `active`, the sessions with
    calls, and how many they are of each priority; `waiting`, the calls that stand still;
    `timed`, those with a deadline of their own; sums of what calls hold and of what is kept for
    agents; and `kept`, sums of what is kept for sessions."""

    config: PolicyConfig
    budget_bytes: int
    sessions: dict[str, SessionState] = field(default_factory=dict)
    active: dict[str, SessionState] = field(default_factory=dict)
    active_of_rank: list[int] = field(default_factory=lambda: [0, 0, 0])
    overhead_bytes: int = 0
    calls_held_bytes: int = 0
    calls: dict[str, CallState] = field(default_factory=dict)
    waiting: dict[str, CallState] = field(default_factory=dict)
    timed: dict[str, CallState] = field(default_factory=dict)
    learned: Learned = field(default_factory=Learned)
    kept: Kept = field(default_factory=Kept)
    stuck_since_ns: int | None = None
    reclaimed_ns: int | None = None

    def add_call(self, call: CallState) -> None:
        session = self.sessions[call.session]
        self.calls[call.name] = session.calls[call.name] = call
        if session.name not in self.active:
            self.active[session.name] = session
            self.active_of_rank[session.priority.rank] += 1
            self.kept.all_changed = True
        self.note(call)

    def note_held(self, call: CallState) -> None:
        """After a change of what a call uses or is granted: the sums follow."""
        gained_bytes = call.held_bytes - call.counted_bytes
        if gained_bytes:
            call.counted_bytes += gained_bytes
            self.sessions[call.session].calls_held_bytes += gained_bytes
            self.calls_held_bytes += gained_bytes
        self.kept.changed.add(call.session)

    def note(self, call: CallState) -> None:
        """After every other change of a call: all that is kept beside it follows."""
        self.note_held(call)
        rank = self.sessions[call.session].priority.rank if call.runs else -1
        if rank != call.counted_rank:
            call.counted_rank = rank
            if rank >= 0:
                self.kept.note_running(call)
        for among, belongs in ((self.waiting, call.waits), (self.timed, call.is_timed)):
            if belongs:
                among[call.name] = call
            else:
                among.pop(call.name, None)

    def drop_call(self, name: str) -> CallState | None:
        call = self.calls.pop(name, None)
        if call is None:
            return None
        session = self.sessions[call.session]
        session.calls.pop(name, None)
        session.calls_held_bytes -= call.counted_bytes
        self.calls_held_bytes -= call.counted_bytes
        call.counted_rank = -1
        self.kept.changed.add(session.name)
        self.waiting.pop(name, None)
        self.timed.pop(name, None)
        if not session.calls:
            self.active.pop(session.name, None)
            self.active_of_rank[session.priority.rank] -= 1
            self.kept.all_changed = True
        return call

    def set_priority(self, session: SessionState, priority: Priority) -> None:
        if session.name in self.active:
            self.active_of_rank[session.priority.rank] -= 1
            self.active_of_rank[priority.rank] += 1
            self.kept.all_changed = True
        session.priority = priority
        for call in session.calls.values():
            self.note(call)
