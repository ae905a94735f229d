# SPDX-License-Identifier: Apache-2.0
"""The daemon's own policy over the simulated host: policy.step, fed as the daemon feeds it.

Calls are looked at by the daemon's pacing; of a call in which nothing moves and for which
policy has nothing left to do no more looks are made until it moves, which changes nothing
but the time this takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..policy.engine import new_state, next_deadline_ns, step
from ..policy.pacing import FASTEST_LOOK_NS, SLOWEST_LOOK_NS, next_look_at_ns, next_look_ns
from ..policy.state import PolicyConfig, PolicyState
from ..types import actions as act
from ..types import inputs as i
from ..types.intents import Priority
from ..types.sessions import Mode
from .governor import Governor
from .process import NO_LINE_BYTES
from .running import RunningCall, RunningSession

if TYPE_CHECKING:
    from .world import World

__all__ = ["DaemonGovernor"]

_MS = 1_000_000
_AGENT_EVERY_NS = 500 * _MS
_FIRST_LOOK_NS = 50 * _MS
_TOLD_AGAIN_NS = 10 * _MS
# As many slowest looks in a row that find nothing moved and ask for nothing. By then a grant
# has been unused for longer than policy waits before it takes it.
_QUIET_LOOKS = 1
_TICK_AGAIN_NS = 2 * _MS


class DaemonGovernor(Governor):
    def __init__(self, config: PolicyConfig | None = None, mode: Mode = Mode.ENFORCE) -> None:
        self._config = config
        self._mode = mode
        self._tick_due_ns: int | None = None

    def attach(self, world: World) -> None:
        super().attach(world)
        self.state: PolicyState = new_state(world.budget_bytes, self._config)

    def session_begins(self, session: RunningSession) -> None:
        plan = session.plan
        priority = Priority(plan.priority)
        self._feed(
            i.SessionBegin(
                self.world.now_ns, plan.name, priority, plan.budget_bytes, plan.reserve_bytes,
                self._mode,
            )
        )  # fmt: skip
        self.world.enter(session)
        if plan.agent_base_bytes:
            self._tell_agent(session)

    def session_ended(self, session: RunningSession) -> None:
        self._feed(i.SessionEnd(self.world.now_ns, session.name))

    def call_begins(self, call: RunningCall) -> None:
        session = call.session
        self._feed(i.CallBegin(self.world.now_ns, session.name, call.name, call.plan.intent))
        self.agent_moved(session)

    def call_ended(self, call: RunningCall) -> None:
        held = call.process.held_bytes if call.process else 0
        peak = int(max(held, call.plan.peak_bytes)) if call.result.survived else None
        self._feed(i.CallEnd(self.world.now_ns, call.name, peak))

    def agent_moved(self, session: RunningSession) -> None:
        """Policy hears of an agent as often as from the daemon, and while it has calls."""
        if not session.calls or session.agent_due:
            return
        if session.agent_held_bytes != session.agent_told_bytes:
            session.agent_due = True
            due_ns = session.agent_told_ns + _AGENT_EVERY_NS
            self.world.at(due_ns, self._tell_agent, session)

    def _tell_agent(self, session: RunningSession) -> None:
        session.agent_due = False
        if session.ended:
            return
        session.agent_told_ns = self.world.now_ns
        session.agent_told_bytes = session.agent_held_bytes
        self._feed(i.AgentSample(self.world.now_ns, session.name, session.agent_held_bytes))

    def moved(self, call: RunningCall) -> None:
        process = call.process
        if process is None or call.dying:
            return
        now_ns = self.world.now_ns
        if process.at_line and not process.frozen and now_ns - call.line_told_ns >= _TOLD_AGAIN_NS:
            call.line_told_ns = now_ns
            self.world.at(now_ns + self.world.host.event_delay_ns, self._at_line, call)
        if call.look_due_ns is None:
            first = call.look_ns == 0
            due_ns = now_ns + _FIRST_LOOK_NS if first else next_look_at_ns(now_ns, SLOWEST_LOOK_NS)
            self._look_at(call, due_ns, _FIRST_LOOK_NS if first else SLOWEST_LOOK_NS)

    def _at_line(self, call: RunningCall) -> None:
        process = call.process
        if process is None or call.ended or call.dying or not process.at_line or process.frozen:
            return
        self.world.at(self.world.now_ns + _TOLD_AGAIN_NS, self._at_line, call)
        call.line_told_ns = self.world.now_ns
        self._look_at(call, self.world.now_ns + FASTEST_LOOK_NS, FASTEST_LOOK_NS)
        self._feed(i.MemoryHigh(self.world.now_ns, call.name, int(process.held_bytes)))

    def _look_at(self, call: RunningCall, due_ns: int, interval_ns: int) -> None:
        if call.look_due_ns is not None and call.look_due_ns <= due_ns:
            return
        call.quiet = 0
        call.look_ns, call.look_due_ns = interval_ns, due_ns
        self.world.at(due_ns, self._look, call, due_ns)

    def _look(self, call: RunningCall, due_ns: int) -> None:
        process = call.process
        if process is None or call.ended or call.dying or call.look_due_ns != due_ns:
            return
        now_ns = self.world.now_ns
        call.look_due_ns = None
        held = process.held_at(now_ns)
        gained, elapsed_ns = int(held - call.looked_bytes), now_ns - call.looked_ns
        call.looked_bytes, call.looked_ns = held, now_ns
        left = int(process.line_bytes - held)
        interval_ns = next_look_ns(gained, max(1, elapsed_ns), left, call.look_ns)
        quiet = call.quiet + 1 if not gained and interval_ns >= SLOWEST_LOOK_NS else 0
        acted = self._feed(i.CallSample(now_ns, call.name, int(held)))
        if call.ended or call.look_due_ns is not None:
            return
        if quiet < _QUIET_LOOKS or acted or process.rate or process.at_line:
            self._look_at(call, next_look_at_ns(now_ns, interval_ns), interval_ns)
            call.quiet = 0 if acted else quiet

    # --- policy

    def _feed(self, what: i.Input) -> bool:
        """Whether policy asked for anything."""
        self.state, actions = step(self.state, what)
        for action in actions:
            self.world.result.note_decision(self.world.now_ns, action)
            call = self.world.calls.get(action.call)
            if call is not None and not call.ended:
                self._apply(call, action)
        due_ns = next_deadline_ns(self.state)
        if due_ns is not None and (self._tick_due_ns is None or due_ns < self._tick_due_ns):
            self._tick_due_ns = due_ns
            self.world.at(due_ns, self._tick, due_ns)
        return bool(actions)

    def _tick(self, due_ns: int) -> None:
        if due_ns != self._tick_due_ns:
            return
        self._tick_due_ns = None
        now_ns = self.world.now_ns
        pending_ns = next_deadline_ns(self.state)
        if pending_ns is not None and pending_ns <= now_ns:
            # Whoever is overdue once it has been heard is heard again in a moment.
            self._tick_due_ns = now_ns + _TICK_AGAIN_NS
            self.world.at(self._tick_due_ns, self._tick, self._tick_due_ns)
            self._feed(i.Tick(now_ns))
        elif pending_ns is not None:
            self._tick_due_ns = pending_ns
            self.world.at(pending_ns, self._tick, pending_ns)

    def _apply(self, call: RunningCall, action: act.Action) -> None:
        world = self.world
        if isinstance(action, act.Place):
            world.place(call, _line(action.limits.memory_high_bytes))
        elif isinstance(action, act.Refuse):
            world.refuse(call, action.kind)
        elif isinstance(action, act.Kill):
            world.kill(call, action.because.code.value)
        elif isinstance(action, act.SetGrant):
            world.set_line(call, _line(action.grant_bytes))
        elif isinstance(action, act.SetLimits):
            world.set_line(call, _line(action.limits.memory_high_bytes))
        elif isinstance(action, act.Freeze):
            world.freeze(call)
        elif isinstance(action, act.Thaw):
            world.thaw(call)


def _line(grant_bytes: int | None) -> int:
    return NO_LINE_BYTES if grant_bytes is None else grant_bytes
