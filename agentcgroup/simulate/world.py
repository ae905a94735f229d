# SPDX-License-Identifier: Apache-2.0
"""The event loop: sessions on a host, and a governor that divides its memory.

Discrete events, no steps: time jumps to the next turn of a process, level of an agent,
look of the daemon. The same plans, governor and host give the same result. The model,
what it keeps and what it leaves out: docs/design/simulator.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import count

from ..policy.state import PolicyConfig
from .cpu import CpuShares
from .governor import Governor
from .governor_daemon import DaemonGovernor
from .host import CallResult, HostModel, Result, SessionTotals
from .memory import PAGE_BYTES, MemoryTotal
from .process import NO_LINE_BYTES, Process, SessionPlan
from .running import RunningCall, RunningSession

__all__ = ["World"]

# Events between two questions whether a run is worth going on with.
_ASKED_EVERY = 500

Event = tuple[int, int, Callable[..., None], tuple[object, ...]]


class World:
    """`governor`: who divides the memory; the daemon's policy with `config` if none is given.

    `keep_calls` False: only sums a session are kept, so that memory does not grow with time.
    """

    def __init__(
        self, budget_bytes: int, sessions: Iterable[SessionPlan], *,
        governor: Governor | None = None, config: PolicyConfig | None = None,
        host: HostModel | None = None, keep_calls: bool = True,
    ) -> None:  # fmt: skip
        self.budget_bytes = budget_bytes
        self.host = host or HostModel()
        self.now_ns = 0
        self.result = Result()
        self.sessions: dict[str, RunningSession] = {}
        self.calls: dict[str, RunningCall] = {}
        self.memory = MemoryTotal(budget_bytes, self.result)
        self._keep_calls = keep_calls
        self._speed = self.host.growth_bytes_per_s / 1e9
        self._events: list[Event] = []
        self._order = count()
        self._numbers = count(1)
        self._stalled = False
        self._full_due_ns: int | None = None
        self._left = 0
        self.governor = governor or DaemonGovernor(config)
        self.governor.attach(self)
        for plan in sessions:
            self._add(plan)
        if self.host.cores is not None:
            CpuShares(self, self.host.cores)

    def run(
        self, limit_s: float = 3600, hopeless: Callable[[], bool] | None = None
    ) -> Result:  # fmt: skip
        """Until every session ended, `limit_s` of simulated time passed, or `hopeless` says so
        (asked now and then)."""
        limit_ns = int(limit_s * 1e9)
        events = self._events
        while events and self._left and events[0][0] <= limit_ns:
            if hopeless and self.result.events % _ASKED_EVERY == 0 and hopeless():
                break
            at_ns, _, act, arguments = heappop(events)
            self.now_ns = at_ns
            self.result.events += 1
            act(*arguments)
        self.memory.flow(self.now_ns)
        for call in list(self.calls.values()):
            call.result.reason = call.result.reason or "unfinished"
            self._account(call)
        return self.result

    def at(self, when_ns: int, act: Callable[..., None], *arguments: object) -> None:
        """Nothing is done in the past: what is late is done next."""
        heappush(self._events, (max(when_ns, self.now_ns), next(self._order), act, arguments))

    # --- sessions

    def _add(self, plan: SessionPlan) -> None:
        totals = SessionTotals(plan.name, plan.priority, plan.trace_peak_bytes)
        session = RunningSession(plan, totals, iter(plan.calls), iter(plan.agent_levels))
        session.number = len(self.sessions)
        self.sessions[plan.name] = session
        self.result.sessions[plan.name] = totals
        self._left += 1
        self.at(0, self.governor.session_begins, session)

    def enter(self, session: RunningSession) -> None:
        """The session may begin now; called by the governor, once."""
        session.entered = True
        session.late_ns = self.now_ns
        self.memory.change(self.now_ns, session.plan.agent_base_bytes)
        session.next_call = next(session.calls_left, None)
        session.next_agent = next(session.agent_left, None)
        self._next_agent(session)
        self.next_call(session)
        self._maybe_over(session)
        self._check_limit()

    def _next_agent(self, session: RunningSession) -> None:
        if session.next_agent is not None and not session.ended:
            self.at(session.next_agent[0] + session.late_ns, self._agent_level, session)

    def _agent_level(self, session: RunningSession) -> None:
        if session.ended or session.next_agent is None:
            return
        at_ns, size = session.next_agent
        if at_ns + session.late_ns > self.now_ns:  # the session has become later meanwhile
            self._next_agent(session)
            return
        self.memory.change(self.now_ns, size - session.agent_bytes)
        session.agent_bytes = size
        session.totals.planned_ns = max(session.totals.planned_ns, at_ns)
        session.next_agent = next(session.agent_left, None)
        self._note_memory(session)
        self.governor.agent_moved(session)
        self._next_agent(session)
        self._maybe_over(session)
        self._check_limit()

    def next_call(self, session: RunningSession) -> None:
        """Schedule the session's next begin, if nothing that must end before still runs."""
        plan = session.next_call
        if plan is None or session.ended:
            return
        for running in session.calls.values():
            if not session.plan.parallel or running.plan.end_ns <= plan.begin_ns:
                return
        session.version += 1
        self.at(plan.begin_ns + session.late_ns, self._begin_call, session, session.version)

    def _begin_call(self, session: RunningSession, version: int) -> None:
        plan = session.next_call
        if plan is None or session.ended or version != session.version:
            return
        if plan.begin_ns + session.late_ns > self.now_ns:
            self.next_call(session)
            return
        session.next_call = next(session.calls_left, None)
        name = f"c{next(self._numbers)}"
        result = CallResult(session.name, begun_ns=self.now_ns, tool=plan.intent.label or "")
        if self._keep_calls:
            self.result.calls[name] = result
        call = RunningCall(name, session, plan, self.now_ns, result)
        session.calls[name] = self.calls[name] = call
        session.totals.calls += 1
        session.totals.planned_ns = max(session.totals.planned_ns, plan.end_ns)
        self.governor.call_begins(call)
        self.next_call(session)

    def _maybe_over(self, session: RunningSession) -> None:
        """A session is over when nothing runs and nothing is left to come."""
        if session.ended or session.calls or session.next_call or session.next_agent:
            return
        self.end_session(session, reached_end=True)

    def end_session(self, session: RunningSession, *, reached_end: bool) -> None:
        if session.ended:
            return
        session.ended = True
        session.totals.reached_end = reached_end and session.totals.lost == 0
        session.totals.end_ns = self.now_ns
        for call in list(session.calls.values()):
            self.end_call(call)
        self.memory.change(self.now_ns, -session.agent_held_bytes)
        session.agent_bytes = 0
        session.entered = False
        session.totals.note_memory(self.now_ns, 0)
        self._left -= 1
        self.governor.session_ended(session)
        self._resume()

    # --- calls

    def place(self, call: RunningCall, line_bytes: int = NO_LINE_BYTES) -> None:
        """Let the call run below this line."""
        call.process = Process(call.plan, line_bytes, self._speed, self.host.catches_up)
        call.result.waited_ns = self.now_ns - call.begun_ns
        call.looked_ns = self.now_ns
        self.refresh(call)

    def refresh(self, call: RunningCall) -> None:
        """Bring the call to now, and see what it does next."""
        process = call.process
        if process is None or call.ended:
            return
        old_rate = process.rate
        process.settle(self.now_ns)
        before = process.held_bytes
        session = call.session
        if old_rate:  # a level may be reached and left again within the same turn
            session.totals.peak_bytes = max(session.totals.peak_bytes, session.trace_bytes)
        call.version += 1
        due_ns = process.turn(self.now_ns, not self._stalled) if not call.dying else None
        if call.dying:
            process.rate = 0.0
        self.memory.change(self.now_ns, process.held_bytes - before, process.rate - old_rate)
        if old_rate or process.held_bytes != before:
            self._note_memory(session)
        if process.done and not call.dying:
            call.result.survived = True
            self.end_call(call)
            return
        if due_ns is not None:
            self.at(due_ns, self._turn, call, call.version)
        self.governor.moved(call)
        self._check_limit()

    def _turn(self, call: RunningCall, version: int) -> None:
        if version == call.version and not call.ended:
            self.refresh(call)

    def set_line(self, call: RunningCall, line_bytes: int) -> None:
        process = call.process
        if process is None or process.line_bytes == line_bytes:
            return
        process.line_bytes = line_bytes
        self.refresh(call)
        over = process.held_bytes - line_bytes
        self.result.most_overshoot_bytes = max(self.result.most_overshoot_bytes, over)

    def freeze(self, call: RunningCall) -> None:
        if call.process is not None and not call.process.frozen:
            self.refresh(call)
            call.process.frozen = True
            call.frozen_since_ns = self.now_ns
            self.refresh(call)

    def thaw(self, call: RunningCall) -> None:
        if call.process is not None and call.frozen_since_ns is not None:
            call.process.settle(self.now_ns)
            call.process.frozen = False
            call.result.frozen_ns += self.now_ns - call.frozen_since_ns
            call.frozen_since_ns = None
            self.refresh(call)

    def kill(self, call: RunningCall, reason: str) -> None:
        """Its memory is free a moment later."""
        if call.dying or call.ended:
            return
        call.dying = True
        call.result.reason = reason
        call.session.totals.kills_ns.append(self.now_ns)
        if reason == "oom_killed":
            call.session.totals.oom_kills += 1
        else:
            call.session.totals.policy_kills += 1
        self.refresh(call)
        self.at(self.now_ns + self.host.kill_ns, self.end_call, call)

    def refuse(self, call: RunningCall, reason: str) -> None:
        call.result.reason = reason
        self.at(self.now_ns, self.end_call, call)

    def end_call(self, call: RunningCall) -> None:
        if call.ended:
            return
        call.ended = True
        session, process = call.session, call.process
        if process is not None:
            process.settle(self.now_ns)
            self.memory.change(self.now_ns, -process.held_bytes, -process.rate)
        del self.calls[call.name], session.calls[call.name]
        late_ns = self.now_ns - call.plan.end_ns
        session.late_ns = max(session.late_ns, late_ns)
        self._account(call)
        self._note_memory(session)
        self.governor.call_ended(call)
        self.next_call(session)
        self._maybe_over(session)
        self._resume()
        self._check_limit()

    def _account(self, call: RunningCall) -> None:
        result, process = call.result, call.process
        result.ended_ns = self.now_ns
        if call.frozen_since_ns is not None:
            result.frozen_ns += self.now_ns - call.frozen_since_ns
            call.frozen_since_ns = None
        if process is not None:
            process.settle(self.now_ns)
            result.throttled_ns = process.throttled_ns
            result.grew_ns = process.grew_ns
        elif not result.waited_ns:
            result.waited_ns = self.now_ns - call.begun_ns
        call.session.totals.note_call(result)

    # --- the budget

    def _note_memory(self, session: RunningSession) -> None:
        session.totals.note_memory(self.now_ns, session.trace_bytes)

    def _check_limit(self) -> None:
        """See to it that the moment in which the budget is full is an event."""
        if not self.host.kills_at_budget or self._stalled:
            return
        full_ns = self.memory.full_at_ns(self.now_ns)
        if full_ns is not None and (self._full_due_ns is None or full_ns < self._full_due_ns):
            self._full_due_ns = full_ns
            self.at(full_ns, self._budget_full, full_ns)

    def _budget_full(self, due_ns: int) -> None:
        if due_ns != self._full_due_ns:
            return
        self._full_due_ns = None
        if self._stalled:
            return
        self.memory.flow(self.now_ns)
        if self.memory.held_bytes <= self.budget_bytes + PAGE_BYTES:
            self._check_limit()  # somebody gave back, or stopped growing, meanwhile
            return
        self._stalled = True
        for call in list(self.calls.values()):
            if call.process is not None and call.process.rate:
                self.refresh(call)
        self._kill_biggest()

    def _kill_biggest(self) -> None:
        """The kernel's choice: the process that holds most; an agent's end is its session's."""
        calls = [c for c in self.calls.values() if c.process is not None]
        if any(c.dying for c in calls):
            return
        biggest = max(calls, key=lambda c: c.process.held_bytes if c.process else 0, default=None)
        held = biggest.process.held_bytes if biggest and biggest.process else 0.0
        agents = [s for s in self.sessions.values() if s.entered and s.agent_held_bytes > held]
        if agents:
            victim = max(agents, key=lambda s: s.agent_held_bytes)
            victim.totals.oom_kills += 1
            victim.totals.kills_ns.append(self.now_ns)
            self.at(self.now_ns + self.host.kill_ns, self._end_lost, victim)
        elif biggest is not None:
            self.kill(biggest, "oom_killed")

    def _end_lost(self, session: RunningSession) -> None:
        self.end_session(session, reached_end=False)

    def _resume(self) -> None:
        """Memory was freed: those that stood still for want of it go on."""
        if not self._stalled:
            return
        self.memory.flow(self.now_ns)
        if self.memory.held_bytes > self.budget_bytes:
            self._kill_biggest()
            return
        self._stalled = False
        for call in list(self.calls.values()):
            self.refresh(call)
        self._check_limit()
