# SPDX-License-Identifier: Apache-2.0
"""What sessions a trace holds, at a glance. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..units import NS_PER_S
from .records import Record

__all__ = ["SessionSummary", "summarize_sessions"]

_COUNTED = {"call_begin": "calls", "step": "steps", "decision": "decisions"}


@dataclass(slots=True)
class SessionSummary:
    """`peak_bytes`: of memory_current_bytes of the session's own samples; None without any."""

    name: str
    first_ns: int
    last_ns: int
    peak_bytes: int | None = None
    samples: int = 0
    calls: int = 0
    steps: int = 0
    decisions: int = 0

    @property
    def duration_s(self) -> float:
        return (self.last_ns - self.first_ns) / NS_PER_S

    def as_json(self) -> dict[str, Any]:
        figures = asdict(self)
        del figures["first_ns"], figures["last_ns"]
        return {**figures, "duration_s": self.duration_s}


def summarize_sessions(records: Iterable[Record]) -> list[SessionSummary]:
    """In order of first mention; records that name no session are left out."""
    found: dict[str, SessionSummary] = {}
    for record in records:
        name = record.get("session")
        if name is None:
            continue
        t_ns = record["t_ns"]
        summary = found.setdefault(name, SessionSummary(name, t_ns, t_ns))
        summary.first_ns = min(summary.first_ns, t_ns)
        summary.last_ns = max(summary.last_ns, t_ns)
        kind = record["kind"]
        if kind == "sample" and "call" not in record:
            summary.samples += 1
            size = record.get("memory_current_bytes")
            if size is not None:
                summary.peak_bytes = max(size, summary.peak_bytes or 0)
        elif kind in _COUNTED:
            field = _COUNTED[kind]
            setattr(summary, field, getattr(summary, field) + 1)
    return list(found.values())
