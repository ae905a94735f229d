# SPDX-License-Identifier: Apache-2.0
"""Host model and event loop around `policy.step`: the policy of the daemon, unchanged.

Time goes in equal steps. What the model leaves out: page cache, CPU contention, the time
that reclaim takes. What it keeps: memory grows at a finite speed, events reach policy
after a delay, samples come at the daemon's intervals, a kill takes a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..policy.engine import new_state, next_deadline_ns, step
from ..policy.pacing import FASTEST_LOOK_NS, next_look_at_ns, next_look_ns
from ..policy.state import PolicyConfig
from ..types import actions as act
from ..types import inputs as i
from ..types.intents import Priority
from .process import CallPlan, Process, SessionPlan

__all__ = ["CallResult", "Result", "World"]

_MS = 1_000_000
_AGENT_EVERY_NS = 500 * _MS


@dataclass(slots=True)
class CallResult:
    session: str
    survived: bool = False
    reason: str = ""
    waited_ns: int = 0
    frozen_ns: int = 0
    throttled_ns: int = 0
    grew_ns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """`end_ns` of a session is when its last call ended; in `overrun_ns` calls and agents
    together held more than the budget, which a kernel would have answered with a kill.
    `most_overshoot_bytes`: the most that a call held beyond its line, because it grew while
    the line was lowered."""

    calls: dict[str, CallResult]
    end_ns: dict[str, int]
    actions: dict[str, int]
    most_held_bytes: int
    overrun_ns: int = 0
    most_overshoot_bytes: int = 0

    @property
    def makespan_ns(self) -> int:
        return max(self.end_ns.values(), default=0)

    @property
    def lost(self) -> list[CallResult]:
        return [call for call in self.calls.values() if not call.survived]


@dataclass(slots=True)
class _Call:
    name: str
    session: str
    plan: CallPlan
    begun_ns: int
    result: CallResult
    process: Process | None = None
    frozen_since_ns: int | None = None
    dies_ns: int | None = None
    sampled_bytes: int = 0
    looked_ns: int = 0
    sample_ns: int = 0
    interval_ns: int = 50 * _MS
    told_ns: int = -(10**12)


@dataclass(slots=True)
class _Session:
    plan: SessionPlan
    next_call: int = 0
    current: _Call | None = None
    late_ns: int = 0
    agent_next: int = 0
    agent_bytes: int = 0
    agent_told_ns: int = -(10**12)


class World:
    """`growth_bytes_per_s`: how fast one process touches new memory."""

    def __init__(
        self, budget_bytes: int, sessions: Sequence[SessionPlan], *,
        config: PolicyConfig | None = None, step_ns: int = 2 * _MS,
        growth_bytes_per_s: int = 1 << 30, event_delay_ns: int = 2 * _MS,
        kill_ns: int = 30 * _MS,
    ) -> None:  # fmt: skip
        self._state = new_state(budget_bytes, config)
        self._step_ns = step_ns
        self._grow_bytes = growth_bytes_per_s * step_ns // 10**9
        self._event_delay_ns = event_delay_ns
        self._kill_ns = kill_ns
        self._now_ns = 0
        self._sessions = {plan.name: _Session(plan) for plan in sessions}
        self._calls: dict[str, _Call] = {}
        self._result = Result({}, {}, {}, 0)
        self._number = 0
        for plan in sessions:
            self._feed(
                i.SessionBegin(
                    0, plan.name, Priority(plan.priority), plan.budget_bytes, plan.reserve_bytes
                )
            )

    def run(self, limit_s: float = 3600) -> Result:
        """Until every call ended, or `limit_s` of simulated time passed."""
        while self._now_ns < limit_s * 1e9 and self._advance():
            pass
        for call in self._calls.values():
            call.result.reason = call.result.reason or "unfinished"
        return self._result

    def _advance(self) -> bool:
        self._now_ns += self._step_ns
        self._begin_due()
        while (due := next_deadline_ns(self._state)) is not None and due <= self._now_ns:
            self._feed(i.Tick(self._now_ns))
            if next_deadline_ns(self._state) == due:
                break
        for call in list(self._calls.values()):
            self._run_call(call)
        held = sum(c.process.held_bytes for c in self._calls.values() if c.process)
        held += sum(self._run_agent(s) for s in self._sessions.values())
        if held > self._state.budget_bytes:
            self._result.overrun_ns += self._step_ns
        self._result.most_held_bytes = max(self._result.most_held_bytes, held)
        return bool(self._calls) or any(
            s.next_call < len(s.plan.calls) for s in self._sessions.values()
        )

    def _begin_due(self) -> None:
        for session in self._sessions.values():
            if session.current is not None or session.next_call >= len(session.plan.calls):
                continue
            plan = session.plan.calls[session.next_call]
            if plan.begin_ns + session.late_ns > self._now_ns:
                continue
            session.next_call += 1
            self._number += 1
            name = f"c{self._number}"
            result = self._result.calls[name] = CallResult(session.plan.name)
            call = _Call(name, session.plan.name, plan, self._now_ns, result)
            self._calls[name] = session.current = call
            self._feed(i.CallBegin(self._now_ns, call.session, name, plan.intent))

    def _run_agent(self, session: _Session) -> int:
        """What it holds now; policy hears of it as often as from the daemon."""
        levels = session.plan.agent_levels
        while session.agent_next < len(levels):
            at_ns, size = levels[session.agent_next]
            if at_ns + session.late_ns > self._now_ns:
                break
            session.agent_bytes = size
            session.agent_next += 1
        if session.current and self._now_ns - session.agent_told_ns >= _AGENT_EVERY_NS:
            session.agent_told_ns = self._now_ns
            self._feed(i.AgentSample(self._now_ns, session.plan.name, session.agent_bytes))
        return session.agent_bytes

    def _run_call(self, call: _Call) -> None:
        if call.dies_ns is not None:
            if call.dies_ns <= self._now_ns:
                self._end(call)
            return
        process = call.process
        if process is None:
            return
        process.advance(self._now_ns, self._step_ns, self._grow_bytes)
        beyond = process.held_bytes - process.line_bytes
        self._result.most_overshoot_bytes = max(self._result.most_overshoot_bytes, beyond)
        if process.done:
            call.result.survived = True
            self._end(call)
            return
        if process.at_line and self._now_ns - call.told_ns >= self._event_delay_ns:
            call.told_ns = self._now_ns
            call.interval_ns = FASTEST_LOOK_NS
            call.sample_ns = min(call.sample_ns, self._now_ns + FASTEST_LOOK_NS)
            self._feed(i.MemoryHigh(self._now_ns, call.name, process.held_bytes))
        if call.sample_ns <= self._now_ns and call.name in self._calls:
            self._sample(call, process)

    def _sample(self, call: _Call, process: Process) -> None:
        gained, elapsed_ns = process.held_bytes - call.sampled_bytes, self._now_ns - call.looked_ns
        call.sampled_bytes, call.looked_ns = process.held_bytes, self._now_ns
        left = process.line_bytes - process.held_bytes
        call.interval_ns = next_look_ns(gained, elapsed_ns, left, call.interval_ns)
        call.sample_ns = next_look_at_ns(self._now_ns, call.interval_ns)
        self._feed(i.CallSample(self._now_ns, call.name, process.held_bytes))

    def _end(self, call: _Call) -> None:
        session = self._sessions[call.session]
        session.current = None
        planned_ns = call.plan.begin_ns + call.plan.levels[-1][0]
        session.late_ns = max(session.late_ns, self._now_ns - planned_ns)
        self._result.end_ns[call.session] = self._now_ns
        if call.process is not None:
            call.result.throttled_ns = call.process.throttled_ns
            call.result.grew_ns = call.process.grew_ns
        if call.frozen_since_ns is not None:
            call.result.frozen_ns += self._now_ns - call.frozen_since_ns
        del self._calls[call.name]
        self._feed(i.CallEnd(self._now_ns, call.name))

    def _feed(self, what: i.Input) -> None:
        self._state, actions = step(self._state, what)
        for action in actions:
            kind = type(action).__name__.lower()
            self._result.actions[kind] = self._result.actions.get(kind, 0) + 1
            call = self._calls.get(action.call)
            if call is not None:
                self._apply(call, action)

    def _apply(self, call: _Call, action: act.Action) -> None:
        process = call.process
        if isinstance(action, act.Place):
            line = _line(action.limits.memory_high_bytes)
            call.process = Process(call.plan, line)
            call.result.waited_ns = self._now_ns - call.begun_ns
            call.sample_ns = self._now_ns + 50 * _MS
        elif isinstance(action, act.Refuse):
            call.result.reason = action.kind
            call.dies_ns = self._now_ns
        elif isinstance(action, act.Kill):
            call.result.reason = action.because.code.value
            call.dies_ns = self._now_ns + self._kill_ns
        elif process is None:
            return
        elif isinstance(action, act.SetGrant):
            process.line_bytes = _line(action.grant_bytes)
        elif isinstance(action, act.SetLimits):
            process.line_bytes = _line(action.limits.memory_high_bytes)
        elif isinstance(action, act.Freeze):
            process.frozen = True
            call.frozen_since_ns = self._now_ns
        elif isinstance(action, act.Thaw) and call.frozen_since_ns is not None:
            process.frozen = False
            call.result.frozen_ns += self._now_ns - call.frozen_since_ns
            call.frozen_since_ns = None


def _line(grant_bytes: int | None) -> int:
    return 1 << 60 if grant_bytes is None else grant_bytes
