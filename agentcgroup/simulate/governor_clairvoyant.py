# SPDX-License-Identifier: Apache-2.0
"""Who knows what every begun call will need: nobody is killed, and nobody waits for a guess.

A call takes its next level if, with it, there is still an order in which all that run can
reach their true peaks and end (the banker's rule), and if it does not take from those of
higher priority what they need to reach theirs at once; otherwise it stands still until
others have given back. Higher priority and then longer waits come first. It sees the
peaks ahead, not the hour of each, so a schedule with fewer waits may exist.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ..types.intents import Priority
from .governor import Governor
from .running import RunningCall, RunningSession

if TYPE_CHECKING:
    from .world import World

__all__ = ["ClairvoyantGovernor"]


class ClairvoyantGovernor(Governor):
    def attach(self, world: World) -> None:
        super().attach(world)
        self._ahead: dict[str, list[int]] = {}
        self._agent_peaks: dict[str, int] = {}
        self._waiting: dict[str, tuple[int, int, RunningCall]] = {}
        self._serving = False

    def session_begins(self, session: RunningSession) -> None:
        peak = max((size for _, size in session.plan.agent_levels), default=0)
        self._agent_peaks[session.name] = peak + session.plan.agent_base_bytes
        self.world.enter(session)

    def session_ended(self, session: RunningSession) -> None:
        self._agent_peaks.pop(session.name, None)
        self._serve()

    def call_begins(self, call: RunningCall) -> None:
        sizes = [size for _, size in call.plan.levels]
        self._ahead[call.name] = list(accumulate(reversed(sizes), max))[::-1]
        self._ask(call)

    def call_ended(self, call: RunningCall) -> None:
        self._ahead.pop(call.name, None)
        self._waiting.pop(call.name, None)
        self._serve()

    def moved(self, call: RunningCall) -> None:
        process = call.process
        if process is None or call.dying:
            return
        if process.at_line:
            self._ask(call)
            return
        if not process.rate:  # what it gave back it has to ask for again
            process.line_bytes = min(process.line_bytes, int(process.held_bytes))
        self._serve()

    def _ask(self, call: RunningCall) -> None:
        if call.name not in self._waiting:
            rank = Priority(call.session.plan.priority).rank
            self._waiting[call.name] = (rank, self.world.now_ns, call)
        self._serve()

    def _serve(self) -> None:
        if self._serving:  # a call that was served moves, and asks again
            return
        self._serving = True
        try:
            while any(self._grant(call) for _, _, call in self._in_order()):
                pass
        finally:
            self._serving = False

    def _in_order(self) -> list[tuple[int, int, RunningCall]]:
        return sorted(self._waiting.values(), key=lambda entry: entry[:2])

    def _grant(self, call: RunningCall) -> bool:
        """Whether it got its next level."""
        goal = self._next_goal(call)
        if not self._is_safe(call, goal):
            return False
        del self._waiting[call.name]
        if call.process is None:
            self.world.place(call, goal)
        else:
            self.world.set_line(call, goal)
        return True

    def _next_goal(self, call: RunningCall) -> int:
        process = call.process
        if process is None or process.begun_ns is None:
            return call.plan.base_bytes
        return call.plan.base_bytes + call.plan.levels[process.reached][1]

    def _is_safe(self, asking: RunningCall, goal: int) -> bool:
        free = float(self.world.budget_bytes - sum(self._agent_peaks.values()))
        rank = Priority(asking.session.plan.priority).rank
        needs: list[tuple[float, float]] = []
        above = 0.0
        for call in self.world.calls.values():
            if call.process is None and call is not asking:
                continue
            held = float(goal) if call is asking else _held(call)
            missing = max(0.0, self._peak_ahead(call) - held)
            free -= held
            needs.append((missing, held))
            if Priority(call.session.plan.priority).rank < rank:
                above += missing
        taken = goal - _held(asking)
        if free < 0 or free < above <= free + taken:  # it would stand in a higher one's way
            return False
        for missing, held in sorted(needs):
            if missing > free:
                return False
            free += held
        return True

    def _peak_ahead(self, call: RunningCall) -> int:
        reached = call.process.reached if call.process is not None else 0
        ahead = self._ahead[call.name]
        return call.plan.base_bytes + (ahead[reached] if reached < len(ahead) else 0)


def _held(call: RunningCall) -> float:
    """What it holds, or has been given and is about to take."""
    process = call.process
    if process is None:
        return 0.0
    return process.line_bytes if process.rate else process.held_bytes
