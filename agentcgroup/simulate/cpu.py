# SPDX-License-Identifier: Apache-2.0
"""Sharing of CPUs, once a second: who asks for more than there is becomes later by as much.

Shares go by priority (cpu.weight 4, 2, 1 by session); what one class does not use, the
others may. Without priorities set apart by the policy all weigh the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .running import RunningSession

if TYPE_CHECKING:
    from .world import World

__all__ = ["CpuShares", "fair_share"]

_SLICE_NS = 1_000_000_000
_WEIGHTS = {"high": 4, "normal": 2, "low": 1}


def fair_share(demands: list[tuple[float, int]], cores: float) -> list[float]:
    """Of (cores asked for, weight): what each gets; nobody more than it asked for."""
    given = [0.0] * len(demands)
    open_ = [index for index, (asked, _) in enumerate(demands) if asked > 0]
    left = cores
    while open_ and left > 1e-9:
        unit = left / sum(demands[index][1] for index in open_)
        content = [n for n in open_ if demands[n][0] - given[n] <= unit * demands[n][1]]
        if not content:
            for index in open_:
                given[index] += unit * demands[index][1]
            break
        for index in content:
            left -= demands[index][0] - given[index]
            given[index] = demands[index][0]
        open_ = [index for index in open_ if index not in set(content)]
    return given


class CpuShares:
    def __init__(self, world: World, cores: float) -> None:
        self._world = world
        self._cores = cores
        self._sessions = [s for s in world.sessions.values() if s.plan.cpu]
        if self._sessions:
            world.at(_SLICE_NS, self._slice)

    def _slice(self) -> None:
        now_ns = self._world.now_ns
        self._world.at(now_ns + _SLICE_NS, self._slice)
        running = [s for s in self._sessions if s.entered and not _stands_still(s)]
        asked = [self._asked(session, now_ns) for session in running]
        if sum(asked) <= self._cores:
            return
        demands = [
            (cores, _WEIGHTS[session.plan.priority])
            for cores, session in zip(asked, running, strict=True)
        ]
        for session, wanted, got in zip(
            running, asked, fair_share(demands, self._cores), strict=True
        ):
            if got < wanted:
                _delay(session, int(_SLICE_NS * (1 - got / wanted)))

    def _asked(self, session: RunningSession, now_ns: int) -> float:
        """Cores it uses at this point of its own time."""
        at_ns = now_ns - session.late_ns
        cpu = session.plan.cpu
        while session.cpu_next < len(cpu) and cpu[session.cpu_next][0] <= at_ns:
            session.cpu_cores = cpu[session.cpu_next][1]
            session.cpu_next += 1
        return session.cpu_cores


def _stands_still(session: RunningSession) -> bool:
    """Its calls wait or are frozen, so it uses no CPU."""
    calls = session.calls.values()
    return bool(calls) and all(c.process is None or c.process.frozen for c in calls)


def _delay(session: RunningSession, delay_ns: int) -> None:
    """What is scheduled sees when its time comes that it has become later."""
    session.late_ns += delay_ns
    for call in session.calls.values():
        if call.process is not None:
            call.process.paused_ns += delay_ns
