# SPDX-License-Identifier: Apache-2.0
"""What `top` shows, from two snapshots of the daemon's figures. Pure: no terminal, no clock.

Rates are taken over the time between the snapshots; of a call that was not in the first
one, over its life so far. Percent of one core, percent of wall time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..protocol.messages import CallInfo, SessionInfo

__all__ = ["SORTS", "Group", "Row", "Snapshot", "as_json", "filtered", "groups", "ordered"]

_LEAST_S = 0.02


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The daemon's status, its sessions and their live calls, read at one time."""

    status: Mapping[str, Any]
    sessions: tuple[SessionInfo, ...]
    calls: tuple[CallInfo, ...]
    epoch_s: float

    @property
    def uptime_s(self) -> float:
        return float(self.status.get("uptime_s") or 0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """A session, or one of its calls (`call` is its name). None is: not known."""

    session: str
    call: str | None
    state: str
    priority: str
    cpu_pct: float | None
    memory_bytes: int | None
    grant_bytes: int | None
    cap_bytes: int | None
    pressure_pct: float | None
    waited_ms: float
    throttled_ms: float
    frozen_ms: float
    age_s: float
    layers: tuple[str, ...]
    text: str
    because: str

    @property
    def delayed_ms(self) -> float:
        """All the time that it was held back."""
        return self.waited_ms + self.throttled_ms + self.frozen_ms

    @property
    def name(self) -> str:
        return self.call or self.session


@dataclass(frozen=True, slots=True)
class Group:
    session: Row
    calls: tuple[Row, ...]


SORTS: dict[str, Callable[[Row], Any]] = {
    "cpu": lambda row: -(row.cpu_pct or 0.0),
    "memory": lambda row: -(row.memory_bytes or 0),
    "pressure": lambda row: -(row.pressure_pct or 0.0),
    "delayed": lambda row: -row.delayed_ms,
    "name": lambda row: row.name,
}


def groups(before: Snapshot | None, now: Snapshot) -> list[Group]:
    """Every session with its calls, as the daemon lists them."""
    old_calls = {info.call: info for info in before.calls} if before else {}
    old_sessions = {info.name: info for info in before.sessions} if before else {}
    passed_s = now.uptime_s - before.uptime_s if before else 0.0
    calls: dict[str, list[CallInfo]] = {}
    for info in now.calls:
        calls.setdefault(info.session, []).append(info)
    found = []
    for session in now.sessions:
        rows = tuple(
            _call_row(old_calls.get(info.call), info, session)
            for info in calls.get(session.name, ())
        )
        row = _session_row(old_sessions.get(session.name), session, rows, passed_s, now.epoch_s)
        found.append(Group(row, rows))
    return found


def ordered(found: Iterable[Group], sort: str, *, reverse: bool = False) -> list[Group]:
    """Sessions by `sort` (a key of SORTS), and the calls of each likewise."""

    def key(row: Row) -> tuple[Any, str]:
        return SORTS[sort](row), row.name

    inner = [
        Group(group.session, tuple(sorted(group.calls, key=key, reverse=reverse)))
        for group in found
    ]
    return sorted(inner, key=lambda group: key(group.session), reverse=reverse)


def filtered(found: Iterable[Group], wanted: str) -> list[Group]:
    """Sessions that match with all their calls, else only the calls that match."""
    needle = wanted.strip().casefold()
    if not needle:
        return list(found)
    kept = []
    for group in found:
        calls = tuple(row for row in group.calls if _matches(row, needle))
        if _matches(group.session, needle):
            kept.append(group)
        elif calls:
            kept.append(Group(group.session, calls))
    return kept


def as_json(before: Snapshot | None, now: Snapshot) -> dict[str, Any]:
    """The protocol's records with the rates; keys are stable."""
    rows = {(r.session, r.call): r for g in groups(before, now) for r in (g.session, *g.calls)}

    def rates(session: str, call: str | None) -> dict[str, Any]:
        row = rows.get((session, call))
        return {
            "cpu_pct": _rounded(row.cpu_pct if row else None),
            "pressure_pct": _rounded(row.pressure_pct if row else None),
            **({"priority": row.priority if row else None} if call else {}),
        }

    host = now.status.get("host") or {}
    budget, free = host.get("budget_bytes"), host.get("free_bytes")
    return {
        "host": {
            "budget_bytes": budget,
            "held_bytes": budget - free if budget is not None and free is not None else None,
            "free_bytes": free,
            **{name: now.status.get(name) for name in ("mode", "layers", "version", "uptime_s")},
        },
        "sessions": [
            {**info.model_dump(mode="json"), **rates(info.name, None)} for info in now.sessions
        ],
        "calls": [
            {**info.model_dump(mode="json", exclude={"outcome"}), **rates(info.session, info.call)}
            for info in now.calls
        ],
    }


def _call_row(before: CallInfo | None, now: CallInfo, session: SessionInfo) -> Row:
    age_s = now.age_s or 0.0
    if before is not None and before.age_s is not None:
        cpu_s, stalled_ms, passed_s = before.cpu_s, before.throttled_ms, age_s - before.age_s
    else:
        cpu_s, stalled_ms, passed_s = 0.0, 0.0, age_s - (now.waited_ms or 0.0) / 1000
    return Row(
        session=now.session,
        call=now.call,
        state=now.state,
        priority=session.priority,
        cpu_pct=_rate(cpu_s, now.cpu_s, passed_s),
        memory_bytes=now.memory_current_bytes,
        grant_bytes=now.grant_bytes,
        cap_bytes=now.cap_bytes,
        pressure_pct=_share(_rate(stalled_ms, now.throttled_ms, passed_s * 1000)),
        waited_ms=now.waited_ms or 0.0,
        throttled_ms=now.throttled_ms or 0.0,
        frozen_ms=now.frozen_ms or 0.0,
        age_s=age_s,
        layers=tuple(now.layers),
        text=now.label or now.command or "",
        because=now.because or "",
    )


def _session_row(
    before: SessionInfo | None,
    now: SessionInfo,
    calls: tuple[Row, ...],
    passed_s: float,
    epoch_s: float,
) -> Row:
    same = before is not None and before.created_epoch_s == now.created_epoch_s
    if before is None or not same:
        passed_s = 0.0
    stalled_ms = before.throttled_ms if before else None
    pressure = _share(_rate(stalled_ms, now.throttled_ms, passed_s * 1000))
    return Row(
        session=now.name,
        call=None,
        state="idle" if not calls else f"{len(calls)} call{'s' * (len(calls) > 1)}",
        priority=now.priority,
        cpu_pct=_rate(before.cpu_s if before else None, now.cpu_s, passed_s),
        memory_bytes=now.memory_current_bytes,
        grant_bytes=now.granted_bytes,
        cap_bytes=now.memory_bytes,
        pressure_pct=now.pressure_avg10_pct if pressure is None else pressure,
        waited_ms=sum(row.waited_ms for row in calls),
        throttled_ms=now.throttled_ms or 0.0,
        frozen_ms=sum(row.frozen_ms for row in calls),
        age_s=max(0.0, epoch_s - now.created_epoch_s) if now.created_epoch_s else 0.0,
        layers=() if now.mode == "enforce" else (now.mode,),
        text=", ".join(f"{name}={value}" for name, value in now.labels.items()),
        because="",
    )


def _rate(before: float | None, now: float | None, passed: float) -> float | None:
    """Percent of the time passed; None when it is too short, or the counter began anew."""
    if before is None or now is None or passed < _LEAST_S or now < before:
        return None
    return 100.0 * (now - before) / passed


def _share(pct: float | None) -> float | None:
    """The two readings behind it are not of the same instant: never more than all."""
    return None if pct is None else min(100.0, pct)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _matches(row: Row, needle: str) -> bool:
    if row.call is None:
        return needle in row.session.casefold() or needle in row.text.casefold()
    return any(needle in word.casefold() for word in (row.call, row.text, row.state))
