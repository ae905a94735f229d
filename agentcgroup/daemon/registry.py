# SPDX-License-Identifier: Apache-2.0
"""Cgroup path of a caller -> session and place in it. What identity asks per request."""

from __future__ import annotations

from ..types.sessions import SessionKind
from .core import Core
from .identity import Location
from .outcomes import OutcomeStore
from .places import Places
from .records import ProcessRef

__all__ = ["TreeRegistry"]


class TreeRegistry:
    def __init__(self, core: Core, store: OutcomeStore, places: Places) -> None:
        self._core = core
        self._store = store
        self._places = places

    def locate(self, cgroup_path: str) -> Location | None:
        return self._places.locate(cgroup_path)

    def any_outside(self) -> bool:
        return any(s.kind is SessionKind.OUTSIDE for s in self._core.sessions.values())

    def outside_session(self, pid: int, start_time: int) -> str | None:
        for record in self._core.sessions.values():
            agent = record.bound_agent
            if (
                record.kind is SessionKind.OUTSIDE
                and agent is not None
                and agent.pid == pid
                # An agent that lives has had its number since it was bound.
                and ProcessRef.of(pid) == agent
            ):
                return record.name
        return None

    def session_of_call(self, call: str) -> str | None:
        record = self._core.calls.get(call)
        if record is not None:
            return record.session
        outcome = self._store.get(call)
        return outcome.session if outcome else None
