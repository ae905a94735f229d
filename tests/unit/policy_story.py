# SPDX-License-Identifier: Apache-2.0
"""Policy told as short stories: what goes in, which actions come out."""

from __future__ import annotations

from typing import Any

from agentcgroup.policy.engine import new_state, next_deadline_ns, step
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import GIB

MS = 1_000_000
S = 1_000 * MS


class Story:
    """Feeds inputs at a running time and keeps what policy asked for."""

    def __init__(self, budget: int = GIB, **config: Any) -> None:
        self.state = new_state(budget, PolicyConfig(**config))
        self.now_ns = 0
        self.log: list[act.Action] = []

    def feed(self, what: i.Input) -> list[act.Action]:
        self.state, actions = step(self.state, what)
        self.log += actions
        return actions

    def session(self, name: str, priority: Priority = Priority.NORMAL, **more: Any) -> None:
        given = {"budget_bytes": None, "reserve_bytes": 0, **more}
        self.feed(i.SessionBegin(self.now_ns, name, priority, **given))

    def begin(self, session: str, call: str, **intent: Any) -> list[act.Action]:
        return self.feed(i.CallBegin(self.now_ns, session, call, Intent(**intent)))

    def sample(self, call: str, current: int) -> list[act.Action]:
        return self.feed(i.CallSample(self.now_ns, call, current))

    def meet_line(self, call: str, current: int) -> list[act.Action]:
        return self.feed(i.MemoryHigh(self.now_ns, call, current))

    def end(self, call: str) -> list[act.Action]:
        return self.feed(i.CallEnd(self.now_ns, call))

    def later(self, ns: int) -> list[act.Action]:
        self.now_ns += ns
        return self.feed(i.Tick(self.now_ns))

    def run_until_quiet(self, seconds: float = 1000) -> None:
        """Tick at every deadline policy names, as the daemon's timer does."""
        end_ns = self.now_ns + int(seconds * S)
        while (due := next_deadline_ns(self.state)) is not None and due <= end_ns:
            self.now_ns = max(self.now_ns, due)
            self.feed(i.Tick(self.now_ns))


def of(kind: type, actions: list[act.Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]
