# SPDX-License-Identifier: Apache-2.0
"""Who divides the memory: nobody, or fixed shares. The others are beside (governor_*.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .process import NO_LINE_BYTES
from .running import RunningCall, RunningSession

if TYPE_CHECKING:
    from .world import World

__all__ = ["Governor", "NoGovernor", "ShareGovernor"]


class Governor:
    """Told what happens, answers by the world's `enter`, `place`, `refuse`, `set_line`, …

    This one lets everybody do what he wants.
    """

    def attach(self, world: World) -> None:
        self.world = world

    def session_begins(self, session: RunningSession) -> None:
        self.world.enter(session)

    def session_ended(self, session: RunningSession) -> None: ...

    def call_begins(self, call: RunningCall) -> None:
        self.world.place(call)

    def call_ended(self, call: RunningCall) -> None: ...

    def moved(self, call: RunningCall) -> None:
        """Its memory is at a turn: it grows, stands, or stands at its line."""

    def agent_moved(self, session: RunningSession) -> None: ...


class NoGovernor(Governor):
    """One limit around all; beyond it the OOM killer."""


class ShareGovernor(Governor):
    """memory.max a session: of `total` / n, or its peak or mean, for which it waits.

    A session that would hold more than its share loses its biggest process. `waits`: shares
    are handed out while they last; first come, first served.
    """

    def __init__(self, share_bytes: dict[str, int], total_bytes: int, *, waits: bool) -> None:
        self._share_bytes = {name: min(s, total_bytes) for name, s in share_bytes.items()}
        self._free_bytes = total_bytes
        self._waits = waits
        self._queue: list[RunningSession] = []

    def session_begins(self, session: RunningSession) -> None:
        self._queue.append(session)
        self._serve()

    def session_ended(self, session: RunningSession) -> None:
        self._free_bytes += self._share_bytes[session.name] if self._waits else 0
        self._serve()

    def _serve(self) -> None:
        while self._queue:
            session = self._queue[0]
            share = self._share_bytes[session.name] if self._waits else 0
            if share > self._free_bytes:
                return
            self._free_bytes -= share
            self._queue.pop(0)
            session.totals.waited_ns += self.world.now_ns
            self.world.enter(session)

    def call_begins(self, call: RunningCall) -> None:
        self.world.place(call, self._line_bytes(call))

    def moved(self, call: RunningCall) -> None:
        process = call.process
        assert process is not None
        if not process.at_line or call.dying:
            return
        line = self._line_bytes(call)
        if line > process.line_bytes:  # the others of the session gave something back
            self.world.set_line(call, line)
        else:
            self._kill_biggest(call.session)

    def agent_moved(self, session: RunningSession) -> None:
        if session.held_bytes > self._share_bytes[session.name]:
            self._kill_biggest(session)
            return
        for call in list(session.calls.values()):
            self.world.set_line(call, self._line_bytes(call))

    def _line_bytes(self, call: RunningCall) -> int:
        own = call.process.held_bytes if call.process else 0.0
        others = call.session.held_bytes - own
        return max(0, min(NO_LINE_BYTES, int(self._share_bytes[call.session.name] - others)))

    def _kill_biggest(self, session: RunningSession) -> None:
        placed = [c for c in session.calls.values() if c.process is not None and not c.dying]
        biggest = max(placed, key=lambda c: c.process.held_bytes if c.process else 0, default=None)
        held = biggest.process.held_bytes if biggest and biggest.process else -1.0
        if session.agent_held_bytes > held:
            session.totals.oom_kills += 1
            session.totals.kills_ns.append(self.world.now_ns)
            self.world.end_session(session, reached_end=False)
        elif biggest is not None:
            self.world.kill(biggest, "oom_killed")
