# SPDX-License-Identifier: Apache-2.0
"""From directories to runs: AgentCgroup sets, single task directories, own trace files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ...errors import FormatError
from ..importers.agentcgroup import is_task_directory, parse_human_bytes, task_source
from ..importers.files import find, read_json
from ..importers.jsonl import read_objects
from ..load import load_session_trace
from ..model import SessionTrace
from .runs import Array, Call, Message, Run, Summary, Times

__all__ = ["load_sets"]

_START_BEFORE_FIRST_SAMPLE_S = 0.1
_LETTERS_1024 = {"KB": 1 / 1024, "MB": 1.0, "GB": 1024.0, "TB": 1024.0**2}
_AUTHORS = re.compile(r"([\d.]+)\s*(KB|MB|GB|TB)")


_Model = TypeVar("_Model", bound=BaseModel)


class _Sample(BaseModel):
    epoch: float = Field(ge=0, lt=1e11)
    mem_usage: str
    cpu_percent: str = "0%"


class _Figures(BaseModel):
    max: float = 0.0
    avg: float = 0.0


class _Summary(BaseModel):
    sample_count: int = 0
    duration_seconds: float = 0.0
    memory_mb: _Figures = _Figures()
    cpu_percent: _Figures = _Figures()


class _Resources(BaseModel):
    samples: list[_Sample]
    summary: _Summary | None = None


class _Timings(BaseModel):
    claude_time: float
    active_time: float | None = None
    permission_fix_time: float = 0.0
    pull_time: float = 0.0


class _Outcome(BaseModel):
    success: bool | None = None
    image_size_mb: float | None = None
    timings_s: _Timings


def load_sets(paths: Sequence[Path]) -> dict[str, list[Run]]:
    """Runs by the name of their set (the directory that holds the tasks), sorted by name.

    A path may be a task, a set of tasks, a directory of sets, a trace file or a directory of
    trace files. FormatError if it holds none.
    """
    found: dict[str, dict[str, Run]] = {}
    for path in paths:
        runs = list(_runs(path.resolve()))
        if not runs:
            raise FormatError(
                "DIR", str(path), "give task directories, sets of them, or directories of traces"
            )
        for run in runs:
            found.setdefault(run.set_name, {})[run.name] = run
    return {name: [runs[key] for key in sorted(runs)] for name, runs in sorted(found.items())}


def _runs(path: Path) -> Iterator[Run]:
    if path.is_file():
        yield _own_run(path)
        return
    if is_task_directory(path):
        yield _task_run(path)
        return
    if not path.is_dir():
        return
    inner = sorted(path.iterdir())
    for child in inner:
        if child.is_dir() and is_task_directory(child):
            yield _task_run(child)
        elif child.is_dir():
            for task in sorted(child.iterdir()):
                if task.is_dir() and is_task_directory(task):
                    yield _task_run(task)
        elif child.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            yield _own_run(child)


def _task_run(task: Path) -> Run:
    path = task_source(task)
    source = find(path, "resources.json")
    assert source is not None
    resources = _checked(_Resources, source)
    outcome_file = find(path, "outcome.json")
    outcome = None if outcome_file is None else _checked(_Outcome, outcome_file)
    samples = sorted(resources.samples, key=lambda sample: sample.epoch)
    epochs = np.array([sample.epoch for sample in samples])
    average = np.array([_percent(sample.cpu_percent) for sample in samples])
    texts = [sample.mem_usage for sample in samples]
    return Run(
        name=task.name,
        set_name=task.parent.name,
        epoch_s=epochs,
        memory_mb=np.array([_decimal_mb(text) for text in texts]),
        memory_1024_mb=np.array([_authors_mb(text) for text in texts]),
        memory_cut_mb=np.array([_authors_cut_mb(text) for text in texts]),
        cpu_average_pct=average,
        cpu_load_pct=_load_pct(epochs, average),
        calls=_calls(path),
        messages=_messages(path),
        summary=_summary(resources.summary),
        times=None if outcome is None else _times(outcome),
        success=None if outcome is None else outcome.success,
    )


def _checked(model: type[_Model], source: Path) -> _Model:
    try:
        return model.model_validate(read_json(source))
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{source}: {where}", first.get("input"), first["msg"]) from None


def _summary(summary: _Summary | None) -> Summary | None:
    if summary is None:
        return None
    return Summary(
        summary.sample_count, summary.duration_seconds,
        summary.memory_mb.max, summary.memory_mb.avg,
        summary.cpu_percent.max, summary.cpu_percent.avg,
    )  # fmt: skip


def _times(outcome: _Outcome) -> Times:
    timings = outcome.timings_s
    return Times(
        timings.claude_time, timings.active_time, timings.permission_fix_time,
        timings.pull_time, outcome.image_size_mb or 0.0,
    )  # fmt: skip


def _percent(text: str) -> float:
    try:
        return float(text.rstrip("%"))
    except ValueError:
        return 0.0


def _decimal_mb(text: str) -> float:
    return (parse_human_bytes(text.split("/", maxsplit=1)[0]) or 0) / 1e6


def _authors_mb(text: str) -> float:
    match = _AUTHORS.match(text.split("/", maxsplit=1)[0].strip())
    return float(match[1]) * _LETTERS_1024[match[2]] if match else 0.0


def _authors_cut_mb(text: str) -> float:
    """analyze_new_insights._parse_mem_usage: "195.7MB" -> 195, "196MB" -> 19, "2GB" -> 0."""
    used = text.split("/", maxsplit=1)[0].strip()
    unit = used.upper()[-2:]
    try:
        if unit in ("GB", "MB", "KB"):
            return float(used[:-3]) * _LETTERS_1024[unit]
        return float(used)
    except ValueError:
        return 0.0


def _load_pct(epochs: Array, average: Array) -> Array:
    """Differences of average x elapsed; 0 for the first sample, which tells none."""
    load = np.zeros(len(average))
    if len(epochs) == 0:
        return load
    spent = np.maximum.accumulate(average * (epochs - epochs[0] + _START_BEFORE_FIRST_SAMPLE_S))
    elapsed = np.diff(epochs)
    load[1:] = np.where(elapsed > 0, np.diff(spent) / np.where(elapsed > 0, elapsed, 1), 0.0)
    return load


def _calls(path: Path) -> tuple[Call, ...]:
    source = find(path, "tool_calls.json")
    entries = [] if source is None else read_json(source)
    if not isinstance(entries, list):
        raise FormatError(str(source), entries, "must be a list of tool calls")
    times_file = find(path, "tool_times.jsonl")
    times = {} if times_file is None else {str(o.get("id")): o for _, o in read_objects(times_file)}
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise FormatError(str(source), entry, "a tool call is an object")
        known = times.get(str(entry.get("id")), {})
        given = entry.get("input")
        command = given.get("command") if isinstance(given, dict) else known.get("command")
        end = entry.get("end_timestamp") or known.get("end")
        found.append(
            Call(
                str(entry.get("tool", "Unknown")), _time(entry.get("timestamp")), _time(end),
                command if isinstance(command, str) else "",
                end_elsewhere=not entry.get("end_timestamp") and "end" in known,
            )
        )  # fmt: skip
    return tuple(found)


def _messages(path: Path) -> tuple[Message, ...]:
    source = find(path, "usage.jsonl")
    if source is None:
        return ()
    return tuple(_message(entry) for _, entry in read_objects(source))


def _message(entry: dict[str, Any]) -> Message:
    def count(name: str) -> int:
        value = entry.get(name)
        return value if isinstance(value, int) and value >= 0 else 0

    return Message(
        count("input_tokens"), count("cache_creation_input_tokens"),
        count("cache_read_input_tokens"), count("output_tokens"), max(1, count("n_records")),
        count("output_tokens_record_sum"), not str(entry.get("model")).startswith("claude-"),
    )  # fmt: skip


def _time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _own_run(path: Path) -> Run:
    """An own trace has bytes and CPU time: every reading is the right one."""
    trace = load_session_trace(path)
    epochs = np.array([trace.epoch_s + at_s for at_s, _ in trace.samples])
    memory = np.array([size / 1e6 for _, size in trace.samples])
    load = _own_load_pct(trace)
    calls = tuple(
        Call(c.tool, trace.epoch_s + c.begin_s, trace.epoch_s + c.end_s, c.command or "")
        for c in trace.calls
    )
    summary = Summary(
        len(memory), trace.duration_s, float(memory.max()), float(memory.mean()),
        float(load.max()), float(load.mean()),
    )  # fmt: skip
    return Run(
        trace.name, path.parent.name, epochs, memory, memory, memory, load, load, calls, (),
        summary, None, None,
    )  # fmt: skip


def _own_load_pct(trace: SessionTrace) -> Array:
    if len(trace.cpu_samples) < 2:
        return np.zeros(len(trace.samples))
    at = np.array([at_s for at_s, _ in trace.samples])
    spent_at, spent_s = np.array(trace.cpu_samples).T
    spent = np.interp(at, spent_at, spent_s)
    load = np.zeros(len(at))
    elapsed = np.diff(at)
    load[1:] = np.where(elapsed > 0, 100 * np.diff(spent) / np.where(elapsed > 0, elapsed, 1), 0.0)
    return load
