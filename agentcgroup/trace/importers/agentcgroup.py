# SPDX-License-Identifier: Apache-2.0
"""Reader of the AgentCgroup authors' task directories (resources.json, tool_calls.json).

Source: artifact of arXiv 2602.09345, `experiments/<set>/<task>/`. Memory strings are
podman's: decimal units, four significant digits. `as_authors` multiplies by 1024 as
their replay does. cpu_percent is CPU time since the container's start divided by the
time since then; differencing gives cumulative CPU seconds (podman issue 25709).
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...units import NS_PER_S
from ..convert import records_of
from ..model import CallSpan, SessionTrace, split_calls
from .agentcgroup_steps import read_steps
from .files import find, read_json
from .imported import Changes, Imported
from .jsonl import read_objects

__all__ = [
    "import_task_directory", "is_task_directory", "parse_human_bytes", "read_task_directory",
    "task_source",
]  # fmt: skip

_HUMAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?B)\s*")
_UNITS = ("B", "kB", "MB", "GB", "TB")
# The authors' container starts less than 0.6 s, mostly 0.1 s, before the first sample.
_START_BEFORE_FIRST_SAMPLE_S = 0.1
# The first sample shows the container starting (4 to 15 MB), far below the next one.
_STARTING_BYTES = 50_000_000


def is_task_directory(path: Path) -> bool:
    return find(path, "resources.json") is not None or bool(_attempts(path))


def _attempts(path: Path) -> list[Path]:
    """The authors' repository keeps attempts apart; the last one has the label."""
    found = [p for p in path.glob("attempt_*") if p.name.removeprefix("attempt_").isdecimal()]
    found = [p for p in found if find(p, "resources.json")]
    return sorted(found, key=lambda p: int(p.name.removeprefix("attempt_")))


def task_source(path: Path) -> Path:
    """Where the task's files are: its last attempt if it has any, else itself."""
    attempts = _attempts(path)
    return attempts[-1] if attempts else path


def import_task_directory(path: Path, *, as_authors: bool = False) -> Imported:
    """Samples, tool calls and model steps of a task, with what had to be changed."""
    trace = read_task_directory(path, as_authors=as_authors)
    steps, changes = read_steps(task_source(path), trace.name, trace.epoch_s)
    body = list(records_of(trace))
    end = body.pop()
    records = sorted([*body, *steps], key=lambda record: int(record["t_ns"]))
    end["t_ns"] = max(end["t_ns"], records[-1]["t_ns"])
    return Imported(
        "agentcgroup", [*records, end], round(trace.epoch_s * NS_PER_S), [*trace.notes, *changes]
    )


def read_task_directory(path: Path, *, as_authors: bool = False) -> SessionTrace:
    """The session in `path`; FormatError names field, value and remedy."""
    name, attempts, path = path.resolve().name, _attempts(path), task_source(path)
    source = find(path, "resources.json")
    if source is None:
        raise FormatError(
            "trace directory",
            str(path),
            "it must hold resources.json or resources.json.gz with the session's samples",
        )
    data = read_json(source)
    raw = data.get("samples") if isinstance(data, dict) else None
    if not isinstance(raw, list) or not raw:
        raise FormatError(
            f"{source}: samples", raw, "choose a task directory whose resources.json has samples"
        )
    parsed = [_sample(entry, index, source, as_authors) for index, entry in enumerate(raw)]
    notes: list[str] = []
    while parsed and parsed[-1][1] == 0:
        parsed.pop()
    if len(parsed) < len(raw):
        notes.append(
            f"left out {len(raw) - len(parsed)} samples of 0 B at the end (container gone)"
        )
    if len(parsed) < 2:
        raise FormatError(
            f"{source}: samples", len(parsed), "a session needs two samples that are not 0 B"
        )
    if len(attempts) > 1:
        notes.append(f"used {path.name}, the last of {len(attempts)} attempts")
    if parsed[0][1] < _STARTING_BYTES < parsed[1][1]:
        notes.append("first sample shows the container starting")
    _check_order(parsed, source)
    if any(percent is not None for _, _, percent in parsed):
        notes.append("CPU time worked out from podman's running average")
    begin = parsed[0][0]
    samples = tuple((epoch - begin, size) for epoch, size, _ in parsed)
    spans = _spans(path, begin, notes)
    calls, agent_samples = split_calls(samples, spans)
    return SessionTrace(
        name=name,
        samples=samples,
        calls=calls,
        agent_samples=agent_samples,
        cpu_samples=_cpu(parsed),
        source=str(path),
        notes=tuple(notes),
        epoch_s=begin,
    )


def parse_human_bytes(text: str, *, as_authors: bool = False) -> int | None:
    """Bytes of podman's "185.5MB"; None if it is no such text."""
    match = _HUMAN.fullmatch(text)
    if match is None:
        return None
    unit = float(1024 if as_authors else 1000) ** _UNITS.index(match[2])
    return round(float(match[1]) * unit)


def _sample(
    entry: Any, index: int, source: Path, as_authors: bool
) -> tuple[float, int, float | None]:
    where = f"{source}: samples[{index}]"
    if not isinstance(entry, dict):
        raise FormatError(where, entry, "must be an object")
    epoch = entry.get("epoch")
    if not isinstance(epoch, int | float) or isinstance(epoch, bool) or not 0 <= epoch < 1e11:
        raise FormatError(f"{where}.epoch", epoch, "must be Unix seconds")
    usage = entry.get("mem_usage")
    used = (
        parse_human_bytes(usage.split("/")[0], as_authors=as_authors)
        if isinstance(usage, str)
        else None
    )
    if used is None:
        raise FormatError(f"{where}.mem_usage", usage, 'must read like "185.5MB / 134.5GB"')
    percent = entry.get("cpu_percent")
    cpu: float | None = None
    if isinstance(percent, str) and percent.endswith("%"):
        try:
            cpu = float(percent[:-1])
        except ValueError:
            raise FormatError(f"{where}.cpu_percent", percent, 'must read like "48.06%"') from None
    return float(epoch), used, cpu


def _check_order(parsed: list[tuple[float, int, float | None]], source: Path) -> None:
    for index, (before, after) in enumerate(pairwise(parsed), 1):
        if after[0] < before[0]:
            raise FormatError(
                f"{source}: samples[{index}].epoch", after[0], "samples must be in order of time"
            )


def _cpu(parsed: list[tuple[float, int, float | None]]) -> tuple[tuple[float, float], ...]:
    """Cumulative CPU seconds, undone from the running average; never falling."""
    begin = parsed[0][0]
    total = 0.0
    rows: list[tuple[float, float]] = []
    for epoch, _, percent in parsed:
        if percent is None:
            continue
        elapsed = epoch - begin + _START_BEFORE_FIRST_SAMPLE_S
        total = max(total, percent / 100 * elapsed)
        rows.append((epoch - begin, total))
    return tuple(rows)


def _spans(path: Path, begin_epoch_s: float, notes: list[str]) -> list[CallSpan]:
    source = find(path, "tool_calls.json")
    if source is None:
        notes.append("no tool_calls.json: the session is one piece")
        return []
    entries = read_json(source)
    if not isinstance(entries, list):
        raise FormatError(str(source), entries, "must be a list of tool calls")
    times = _tool_times(path, notes)
    spans: list[CallSpan] = []
    unfinished = mended = 0
    for index, entry in enumerate(entries):
        where = f"{source}[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("tool"), str):
            raise FormatError(where, entry, "must be an object with a tool")
        known = times.get(str(entry.get("id")), {})
        end = entry.get("end_timestamp")
        if end is None and known.get("end") is not None:
            end, mended = known["end"], mended + 1
        if end is None:
            unfinished += 1
            continue
        begin_s = _utc(entry.get("timestamp"), f"{where}.timestamp") - begin_epoch_s
        end_s = _utc(end, f"{where}.end_timestamp") - begin_epoch_s
        given = entry.get("input")
        command = given.get("command") if isinstance(given, dict) else known.get("command")
        spans.append(
            CallSpan(
                max(0.0, begin_s),
                max(0.0, begin_s, end_s),
                entry["tool"],
                command if isinstance(command, str) else None,
            )
        )
    if unfinished:
        notes.append(f"left out {unfinished} tool calls without an end")
    if mended:
        notes.append(f"took the end of {mended} tool calls from tool_times.jsonl")
    return spans


def _tool_times(path: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """By id; the 18-task set has the calls' ends and commands only here."""
    source = find(path, "tool_times.jsonl")
    if source is None:
        return {}
    changes = Changes()
    found = {str(o.get("id")): o for _, o in read_objects(source, changes)}
    notes += changes.lines()
    return found


def _utc(text: Any, where: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise FormatError(where, text, "must be an ISO time with a zone, such as …Z") from None
    if moment.tzinfo is None:
        raise FormatError(where, text, "must carry a zone: tool times are UTC with Z")
    return moment.timestamp()
