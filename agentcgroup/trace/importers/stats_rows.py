# SPDX-License-Identifier: Apache-2.0
"""Rows of a stats log, whatever its shape: tables with a header, JSON a line, JSON arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..records import Record
from .files import numbered_lines
from .imported import Changes

__all__ = ["Row", "looks_like_stats", "read_rows"]

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_EPOCH = re.compile(r"\[?(\d{9,11}(?:\.\d{1,9})?)\]?:?\s+")
_ISO = re.compile(
    r"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)\]?:?\s+"
)
_CELLS = re.compile(r"\s{2,}")
# Column titles and JSON keys, without blanks, dots and case -> what they are here.
_NAMES = {
    "name": "name", "container": "id", "containerid": "id", "id": "id",
    "cpu%": "cpu", "cpuperc": "cpu", "cpupercent": "cpu", "cpu": "cpu",
    "memusage/limit": "memory", "memusage": "memory",
    "netio": "net_io", "netinput/output": "net_io", "neti/o": "net_io",
    "blockio": "block_io", "blockinput/output": "block_io", "blocki/o": "block_io",
    "pids": "pids", "cputime": "cpu_time", "timestamp": "time", "time": "time", "epoch": "time",
}  # fmt: skip
_MAX_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class Row:
    """`values` by this module's names; `round_number` counts repetitions of the containers."""

    name: str
    values: dict[str, str]
    round_number: int
    at_s: float | None
    is_podman: bool


def _key(title: str) -> str | None:
    return _NAMES.get(re.sub(r"[\s._]", "", title).lower())


def looks_like_stats(text: str) -> bool:
    """Whether a first line is of a stats log."""
    _, plain = _split_time(_ESCAPE.sub("", text))
    if plain.lstrip()[:1] in "[{":
        if plain.strip() == "[":
            return True
        try:
            value = json.loads(plain)
        except (ValueError, RecursionError):
            return False
        value = value[0] if isinstance(value, list) and value else value
        return isinstance(value, dict) and "memory" in {_key(str(name)) for name in value}
    return "memory" in {_key(cell) for cell in _CELLS.split(plain.strip())}


def read_rows(path: Path, changes: Changes) -> Iterator[Row]:
    """Every row in order; what is no row is counted and left out."""
    rounds = _Rounds()
    columns: list[str | None] = []
    podman_table = False
    pending: list[str] = []
    for _, text in numbered_lines(path, changes):
        at_s, plain = _split_time(_ESCAPE.sub("", text))
        stripped = plain.strip()
        if pending or stripped == "[":  # podman prints an array over many lines
            pending.append(stripped)
            if stripped == "]":
                yield from _json_rows("".join(pending), at_s, rounds, changes)
                pending = []
            elif len(pending) > 100_000:
                pending = []
                changes.add("left out a JSON array without end")
            continue
        if stripped[:1] in ("{", "["):
            yield from _json_rows(stripped, at_s, rounds, changes)
            continue
        cells = _CELLS.split(stripped)[:_MAX_COLUMNS]
        titles = [_key(cell) for cell in cells]
        if "memory" in titles:
            columns, podman_table = titles, cells[0].strip().upper() == "ID"
            rounds.next()
        elif columns and len(cells) == len(columns):
            values = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
            row = rounds.row(values, at_s, is_podman=podman_table)
            if row is not None:
                yield row
        elif stripped:
            changes.add("left out a line that is no row")
    if pending:
        changes.add("left out a JSON array that breaks off")


class _Rounds:
    """Numbers the rounds: a new one at a header, or when a container comes again."""

    def __init__(self) -> None:
        self._number = -1
        self._seen: set[str] = set()

    def next(self) -> None:
        if self._seen or self._number < 0:
            self._number += 1
            self._seen.clear()

    def row(self, values: dict[str, str], at_s: float | None, *, is_podman: bool) -> Row | None:
        name = next(
            (values[k] for k in ("name", "id") if values.get(k, "--") not in ("", "--")), ""
        )
        name = "".join(c if c.isprintable() else "." for c in name)[:128]
        if not name:
            return None
        if self._number < 0 or name in self._seen:
            self._seen.add(name)
            self.next()
        self._seen.add(name)
        return Row(name, values, self._number, at_s, is_podman)


def _json_rows(text: str, at_s: float | None, rounds: _Rounds, changes: Changes) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        changes.add("left out a line that is no JSON")
        return
    for entry in value if isinstance(value, list) else [value]:
        row = None
        if isinstance(entry, dict):
            values = _json_values(entry)
            podman = "mem_usage" in entry or "cpu_time" in entry
            when = at_s if at_s is not None else _moment(values.pop("time", ""))
            row = rounds.row(values, when, is_podman=podman) if "memory" in values else None
        if row is None:
            changes.add("left out a JSON value that is no row")
        else:
            yield row


def _json_values(entry: Record) -> dict[str, str]:
    values: dict[str, str] = {}
    for given, value in entry.items():
        name = _key(str(given))
        if name is not None and isinstance(value, str | int | float):
            values.setdefault(name, str(value))
    return values


def _split_time(text: str) -> tuple[float | None, str]:
    for pattern in (_EPOCH, _ISO):
        match = pattern.match(text)
        if match is not None:
            moment = _moment(match[1])
            if moment is not None:
                return moment, text[match.end() :]
    return None, text


def _moment(text: Any) -> float | None:
    """Unix seconds; a time without a zone is taken as UTC."""
    try:
        value = float(text)
        return value if 0 <= value < 1e11 else None
    except (TypeError, ValueError):
        pass
    try:
        moment = datetime.fromisoformat(str(text).replace(",", "."))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
