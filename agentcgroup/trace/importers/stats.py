# SPDX-License-Identifier: Apache-2.0
"""Reader of logs of `docker stats` and `podman stats`: tables or JSON, a session a container.

What is known of their figures: docker prints binary units (MiB) and CPU of the last
interval; podman prints decimal units, and in `--format json` the CPU time since the
container's start. docker's memory leaves out inactive_file already. Neither writes a
time: a line may begin with one (ISO 8601 or Unix seconds, as from `ts`), or a JSON object
may carry `timestamp`, `time` or `epoch`; otherwise rounds are `interval_s` apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...units import NS_PER_S
from ..records import Record
from .imported import Changes, Imported
from .stats_rows import Row, read_rows

__all__ = ["import_stats"]

_GONE = ("--", "")
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,12})?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*")
_GO_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PERCENT = re.compile(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*%\s*")


@dataclass(slots=True)
class _Container:
    begun: bool = False
    last_ns: int = 0
    cpu_us: float = 0.0
    fields: Record = field(default_factory=dict)


def import_stats(path: Path, *, interval_s: float = 1.0) -> Imported:
    """FormatError if no line of the file is a row of stats."""
    changes = Changes()
    containers: dict[str, _Container] = {}
    records: list[Record] = []
    first_s: float | None = None
    timed = False
    for row in read_rows(path, changes):
        if row.at_s is not None:
            timed = True
            first_s = row.at_s if first_s is None else first_s
        t_ns = _time_ns(row, first_s, interval_s)
        container = containers.setdefault(row.name, _Container())
        if container.begun and t_ns <= container.last_ns:
            changes.add("left out a row that is not later than the one before")
            continue
        sample = _sample(row, container, t_ns, changes)
        if sample is None:
            continue
        if not container.begun:
            records.append({"t_ns": t_ns, "kind": "session", "session": row.name, "step_bytes": 0})
        container.begun, container.last_ns = True, t_ns
        records.append({"t_ns": t_ns, "kind": "sample", "session": row.name, **sample})
    if not records:
        raise FormatError(
            "path", str(path), "no line is a row of docker stats or podman stats with memory in it"
        )
    if not timed:
        changes.add(f"no times in the log: rounds taken as {interval_s:g} s apart")
    records.sort(key=lambda record: int(record["t_ns"]))
    records.append({"t_ns": records[-1]["t_ns"], "kind": "end"})
    return Imported("stats", records, round((first_s or 0) * NS_PER_S), changes.lines())


def _time_ns(row: Row, first_s: float | None, interval_s: float) -> int:
    if row.at_s is None or first_s is None:
        return round(row.round_number * interval_s * NS_PER_S)
    return max(0, round((row.at_s - first_s) * NS_PER_S))


def _sample(row: Row, container: _Container, t_ns: int, changes: Changes) -> Record | None:
    memory = _first_size(row.values.get("memory"))
    if memory is None:
        changes.add("left out a row without memory (container stopped)")
        return None
    if memory == 0:
        changes.add("left out a row of 0 B (container gone)")
        return None
    sample: Record = {"memory_current_bytes": memory}
    cpu_us = _cpu_us(row, container, t_ns, changes)
    if cpu_us is not None:
        sample["cpu_usage_us"] = cpu_us
    pids = row.values.get("pids", "").strip()
    if pids.isdecimal() and len(pids) < 12:
        sample["pids_count"] = int(pids)
    read, _, written = row.values.get("block_io", "").partition("/")
    for name, text in (("io_read_bytes", read), ("io_write_bytes", written)):
        if (size := _size(text)) is not None:
            sample[name] = size
    return sample


def _cpu_us(row: Row, container: _Container, t_ns: int, changes: Changes) -> int | None:
    """Cumulative: the printed CPU time, else the percentage times the time since the last row."""
    if (text := row.values.get("cpu_time", "").strip()) not in _GONE:
        spent_s = _go_duration_s(text)
        if spent_s is not None:
            container.cpu_us = max(container.cpu_us, spent_s * 1e6)
            return round(container.cpu_us)
    match = _PERCENT.fullmatch(row.values.get("cpu", ""))
    if match is None:
        return None
    if row.is_podman:
        changes.add("left out podman's CPU percentage: an average since the container's start")
        return None
    elapsed_us = (t_ns - container.last_ns) / 1000 if container.begun else 0.0
    container.cpu_us += float(match[1]) / 100 * elapsed_us
    changes.add("CPU time added up from docker's percentages")
    return round(container.cpu_us)


def _go_duration_s(text: str) -> float | None:
    """Seconds of Go's 1h2m3.5s, 250ms, 12.5us."""
    parts = re.findall(r"(\d{1,12}(?:\.\d{1,12})?)(h|ms|us|µs|ns|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _GO_UNITS_S[unit] for number, unit in parts)


def _first_size(text: Any) -> int | None:
    return _size(text.partition("/")[0]) if isinstance(text, str) else None


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    base = 1024 if match[2].endswith("iB") else 1000
    power = "BKMGT".index(match[2][0].upper())
    return round(float(match[1]) * float(base) ** power)
