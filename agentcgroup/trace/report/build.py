# SPDX-License-Identifier: Apache-2.0
"""From files to the page: traces, runs and capacities, each told by its content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ...errors import FormatError
from ..convert import records_of
from ..format import read_trace
from ..importers.detect import import_source, is_foreign
from ..importers.files import read_json
from ..load import load_session_trace
from ..records import Record
from .page import figure, legend, page, section, table
from .runs import run_sections
from .sessions import decision_rows, session_section
from .svg import Axis, Chart

__all__ = ["build_report"]

_MOST_REASONS = 400
_WIDTH = 1040


class _Latency(BaseModel):
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    count: int = 0


class _Session(BaseModel):
    name: str
    priority: str = Field(pattern="^(high|normal|low)$")
    survived: bool
    completion_s: float | None = None
    oom_kills: int | None = None
    policy_kills: int = 0
    waited_ms: float | None = None
    throttled_ms: float | None = None
    frozen_ms: float | None = None
    alloc_latency_ms: _Latency = _Latency()
    timeline: list[tuple[float, float]] = []
    kill_times_s: list[float] = []


class _Run(BaseModel):
    run: int
    policy: str
    makespan_s: float = Field(ge=0)
    total_memory_bytes: int | None = None
    sessions: list[_Session]
    decisions: list[dict[str, Any]] = []


class _Runs(BaseModel):
    runs: list[_Run]
    ratios: list[dict[str, Any]] = []


class _Point(BaseModel):
    agents: int = Field(ge=0)
    draws: int = Field(gt=0)
    ok_draws: int = Field(ge=0)


class _Cell(BaseModel):
    memory_bytes: int
    cores: float | None
    policy: str
    agents: int
    curve: list[_Point]


class _Capacity(BaseModel):
    cells: list[_Cell]


def build_report(sources: Sequence[Path], title: str) -> str:
    """The HTML; FormatError names the file that can't be read, and the field."""
    sections: list[str] = []
    reasons: list[tuple[Any, ...]] = []
    for path in sources:
        document = _document(path)
        if isinstance(document, dict) and "runs" in document:
            found = _checked(_Runs, document, path)
            sections += run_sections([r.model_dump() for r in found.runs], found.ratios)
            reasons += [_run_reason(run, d) for run in found.runs for d in run.decisions]
        elif isinstance(document, dict) and "cells" in document:
            sections.append(_density(_checked(_Capacity, document, path)))
        else:
            records = _records(path)
            sections.append(session_section(path.name, records))
            reasons += decision_rows(records, _MOST_REASONS)
    if reasons:
        sections.append(_reasons(reasons))
    about = "Made from " + ", ".join(path.name for path in sources)
    return page(title, about, [part for part in sections if part])


def _document(path: Path) -> Any:
    """A JSON file of runs or capacities; None for what is a trace."""
    if path.is_dir() or path.suffix != ".json" or path.name == "resources.json":
        return None
    return read_json(path)


def _checked(model: Any, document: Any, path: Path) -> Any:
    try:
        return model.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{path}: {where}", first.get("input"), first["msg"]) from None


def _records(path: Path) -> list[Record]:
    if path.is_dir():
        return list(records_of(load_session_trace(path)))
    if not path.exists():
        raise FormatError("source", str(path), "there is no such file or directory")
    if is_foreign(path):
        return import_source(path).records
    return read_trace(path).records


def _run_reason(run: _Run, decision: dict[str, Any]) -> tuple[Any, ...]:
    text = f"[{run.policy}] {decision.get('text', '')}"
    keys = ("session", "call", "action", "reason")
    return (f"{decision.get('t_s', 0):.3f}", *(decision.get(key, "") for key in keys), text)


def _reasons(rows: Sequence[tuple[Any, ...]]) -> str:
    shown = rows[:_MOST_REASONS]
    columns = ("seconds", "session", "call", "action", "reason", "why")
    left_out = len(rows) - len(shown)
    note = (
        "What held somebody up or ended somebody, and why. Grants that follow growth are left out."
    )
    if left_out > 0:
        note += f" {left_out} more are left out."
    body = (
        f"<details open><summary>{len(shown)} decisions</summary>{table(columns, shown)}</details>"
    )
    return section("Reasons", note, body)


def _density(found: _Capacity) -> str:
    hosts = list(dict.fromkeys((cell.memory_bytes, cell.cores) for cell in found.cells))
    drawn = []
    for memory, cores in hosts:
        cells = [c for c in found.cells if (c.memory_bytes, c.cores) == (memory, cores)]
        name = f"{memory / 1e9:g} GB" + ("" if cores is None else f", {cores:g} cores")
        drawn.append(figure(name, _density_chart(cells), legend([c.policy for c in cells])))
    rows = [
        (
            f"{c.memory_bytes / 1e9:g} GB",
            "-" if c.cores is None else f"{c.cores:g}",
            c.policy,
            c.agents,
        )
        for c in found.cells
    ]
    return section(
        "How many agents fit",
        "Share of draws in which so many agents fit: their sum below the host's memory (and CPU),"
        " or, simulated, no kill and no more slowdown than the target.",
        table(("memory", "cores", "policy", "agents"), rows),
        *drawn,
    )


def _density_chart(cells: Sequence[_Cell]) -> str:
    most = max((point.agents for cell in cells for point in cell.curve), default=1)
    chart = Chart(
        _WIDTH, 260, Axis(0, most * 1.02, "agents at the same time", whole=True),
        Axis(0, 1.03, "share of draws that fit"), "Density",
    )  # fmt: skip
    for number, cell in enumerate(cells):
        points = [(float(p.agents), p.ok_draws / p.draws) for p in cell.curve]
        chart.line(points, f"c{number % 8}")
        for agents, share in points:
            words = f"{cell.policy}: {agents:.0f} agents, {share:.0%} of draws"
            chart.dot(agents, share, f"c{number % 8}", number, words)
    return chart.svg()
