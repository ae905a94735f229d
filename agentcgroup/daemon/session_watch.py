# SPDX-License-Identifier: Apache-2.0
"""Who follows a session from its begin to its end: memory events, and execs of its agent."""

from __future__ import annotations

from .exec_calls import ExecCalls
from .records import SessionRecord
from .signals import Signals

__all__ = ["SessionWatch"]


class SessionWatch:
    def __init__(self, signals: Signals, execs: ExecCalls) -> None:
        self._signals = signals
        self._execs = execs

    def begin(self, record: SessionRecord) -> None:
        self._signals.watch_session(record)
        self._execs.watch_session(record)

    def changed(self, record: SessionRecord) -> None:
        """Its agent, its mode or its boundary."""
        self._execs.watch_session(record)

    def end(self, name: str) -> None:
        self._execs.unwatch_session(name)
        self._signals.unwatch_session(name)
