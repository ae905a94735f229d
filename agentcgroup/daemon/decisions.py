# SPDX-License-Identifier: Apache-2.0
"""The decision log: what happened and what was decided, as trace records (DESIGN: trace format).

One stream, two readers: the file that `decision_log` names, and whoever subscribed to
events. Without a reader a record costs nothing but the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from ..errors import FormatError
from ..log import get_logger, warn_once
from ..types.actions import Action
from .records import CallRecord

__all__ = ["Decisions", "Sink"]

_log = get_logger(__name__)


class Sink(Protocol):
    def write(self, record: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Decisions:
    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink
        self._subscribers: dict[int, Callable[[dict[str, Any]], None]] = {}
        self.counts: dict[str, int] = {}

    @property
    def wanted(self) -> bool:
        """Somebody reads: only then are figures worth reading for the log alone."""
        return self._sink is not None or bool(self._subscribers)

    def subscribe(self, key: int, deliver: Callable[[dict[str, Any]], None]) -> None:
        self._subscribers[key] = deliver

    def unsubscribe(self, key: int) -> None:
        self._subscribers.pop(key, None)

    def call_begun(self, t_ns: int, call: CallRecord) -> None:
        if not self.wanted:
            return
        body = {
            "intent": call.intent.model_dump(mode="json", exclude_none=True),
            "limits": call.limits.as_dict(),
            "waited_ms": round(call.waited_ms, 3),
            "boundary": "exec" if call.was_seen else "declared",
        }
        self.record(t_ns, "call_begin", call.session, call.name, body)

    def decided(self, t_ns: int, action: Action, *, applied: bool) -> None:
        kind = type(action).__name__.lower()
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if not self.wanted:
            return
        body = {k: v for k, v in asdict(action).items() if k not in ("session", "call", "because")}
        because = action.because
        record: dict[str, Any] = {
            "action": kind,
            "code": because.code.value,
            "why": because.text,
            **({"figures": dict(because.figures)} if because.figures else {}),
            **body,
        }
        if not applied:
            record["observed_only"] = True
        self.record(t_ns, "decision", action.session, action.call, record)

    def record(
        self, t_ns: int, kind: str, session: str | None, call: str | None, body: dict[str, Any]
    ) -> None:
        """`session` None: of the host as a whole."""
        if not self.wanted:
            return
        envelope: dict[str, Any] = {"t_ns": t_ns, "kind": kind}
        if session is not None:
            envelope["session"] = session
        if call is not None:
            envelope["call"] = call
        # Absent is unknown, in a trace as on the wire.
        envelope.update({k: v for k, v in body.items() if v is not None and v != ""})
        if self._sink is not None:
            self._write(self._sink, envelope)
        for deliver in list(self._subscribers.values()):
            deliver(envelope)

    def _write(self, sink: Sink, envelope: dict[str, Any]) -> None:
        """A full disk or an odd record costs the log a line, never a tool call its end."""
        try:
            sink.write(envelope)
        except (OSError, FormatError) as error:
            warn_once(_log, f"the decision log is incomplete: {error}")

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
