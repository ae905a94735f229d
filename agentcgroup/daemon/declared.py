# SPDX-License-Identifier: Apache-2.0
"""Intents declared ahead of a call; each is consumed once, by id or by command match."""

from __future__ import annotations

import fnmatch
import secrets
from dataclasses import dataclass

from ..clock import Clock
from ..protocol.errors import Kind, ProtocolError
from ..types.intents import Intent

__all__ = ["Declarations", "with_defaults"]

_MOST_PER_SESSION = 100


@dataclass(frozen=True, slots=True)
class _Declared:
    intent_id: str
    intent: Intent
    match: str | None
    expires_ns: int


class Declarations:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_session: dict[str, list[_Declared]] = {}

    def declare(self, session: str, intent: Intent, match: str | None, ttl_s: float) -> str:
        """`match` is a shell pattern for the command line; None fits the next call."""
        waiting = self._live(session)
        if len(waiting) >= _MOST_PER_SESSION:
            raise ProtocolError(
                Kind.TOO_MANY, "too many declared intents wait for their tool call",
                field="session", value=session,
                remedy=f"at most {_MOST_PER_SESSION}; use them or give a shorter ttl_s",
            )  # fmt: skip
        expires_ns = self._clock.now_ns() + int(ttl_s * 1e9)
        declared = _Declared(f"i{secrets.token_hex(6)}", intent, match, expires_ns)
        waiting.append(declared)
        return declared.intent_id

    def take(self, session: str, intent_id: str | None, command: str | None) -> Intent | None:
        """The one named, else the oldest whose pattern fits. An unknown id is an error."""
        waiting = self._live(session)
        for declared in waiting:
            if declared.intent_id == intent_id if intent_id else _fits(declared, command):
                waiting.remove(declared)
                return declared.intent
        if intent_id:
            raise ProtocolError(
                Kind.NOT_FOUND, "this declared intent was used, expired or never existed",
                field="intent_id", value=intent_id, remedy="declare it again",
            )  # fmt: skip
        return None

    def forget(self, session: str) -> None:
        self._by_session.pop(session, None)

    def _live(self, session: str) -> list[_Declared]:
        now = self._clock.now_ns()
        live = [d for d in self._by_session.get(session, []) if d.expires_ns > now]
        self._by_session[session] = live
        return live


def _fits(declared: _Declared, command: str | None) -> bool:
    return declared.match is None or fnmatch.fnmatch(command or "", declared.match)


def with_defaults(intent: Intent, defaults: Intent | None, *, learned: bool) -> Intent:
    """What the session says of every call, where the call says nothing. `learned`: this
    command's memory is known better than by a default."""
    if defaults is None:
        return intent
    given = {
        name: value
        for name in defaults.model_fields_set
        if getattr(intent, name) is None and (value := getattr(defaults, name)) is not None
    }
    memory, cap = (given.get(n) or getattr(intent, n) for n in ("memory", "memory_max"))
    if memory is not None and cap is not None and memory > cap:
        given.pop("memory" if intent.memory is None else "memory_max", None)
    if learned:
        given.pop("memory", None)
    return intent.model_copy(update=given)
