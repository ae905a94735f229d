# SPDX-License-Identifier: Apache-2.0
"""The tables in two columns: as the paper defines a quantity, and corrected.

Every table carries both definitions as sentences; what was wrong is told in
docs/analysis.md. None: the definition gives no value for these runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .authors import as_authors, set_figures
from .corrected import corrected_figures, corrected_over_sets
from .definitions import DEFINITIONS, Definition
from .runs import Run, labelled
from .times import run_to_run

__all__ = ["Row", "Table", "study", "study_json"]


@dataclass(frozen=True, slots=True)
class Row:
    """`unit` as printed: s, %, MB, … ; empty for counts and ratios."""

    quantity: str
    unit: str
    paper: float | None
    corrected: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """`set_name` is `all` for what is over every set."""

    set_name: str
    name: str
    title: str
    paper_definition: str
    corrected_definition: str
    rows: tuple[Row, ...]


def study(sets: Mapping[str, Sequence[Run]]) -> list[Table]:
    """Every table that these runs can fill, set by set, then over all sets."""
    tables: list[Table] = []
    for name, runs in sets.items():
        right = {**corrected_figures(labelled(runs)), "run_to_run": run_to_run(runs)}
        tables += _tables(name, set_figures(labelled(runs)), right)
    whole = as_authors(sets)
    over_all: dict[str, Any] = {
        key: whole[key] for key in ("concurrency_sim", "haiku_vs_local") if key in whole
    }
    return tables + _tables("all", over_all, corrected_over_sets(sets))


def study_json(tables: Sequence[Table]) -> dict[str, Any]:
    """Schema 1: sets → tables → definitions and rows; unrounded."""
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        body = asdict(table)
        del body["set_name"], body["name"]
        found.setdefault(table.set_name, {})[table.name] = body
    return {"schema": 1, "sets": found}


def _tables(set_name: str, paper: Mapping[str, Any], right: Mapping[str, Any]) -> list[Table]:
    found = []
    for definition in DEFINITIONS:
        rows = _rows(definition, paper, right)
        if rows:
            found.append(
                Table(
                    set_name, definition.name, definition.title, definition.paper,
                    definition.corrected, rows,
                )
            )  # fmt: skip
    return found


def _rows(
    definition: Definition, paper: Mapping[str, Any], right: Mapping[str, Any]
) -> tuple[Row, ...]:
    as_printed = _flat(paper.get(definition.paper_key))
    corrected = _flat(right.get(definition.name))
    quantities = list(dict.fromkeys([*as_printed, *corrected]))
    return tuple(
        Row(
            quantity, _unit(quantity, definition), as_printed.get(quantity), corrected.get(quantity)
        )
        for quantity in quantities
    )


def _flat(value: Any, prefix: str = "") -> dict[str, float | None]:
    """Nested figures by dotted name; lists and texts are left to the JSON of --as-authors."""
    if isinstance(value, Mapping):
        found: dict[str, float | None] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {}
    return {prefix or "value": value}


_COUNTS = frozenset(
    {"n", "count", "total", "max_group_size", "task_count", "n_tasks", "total_samples"}
    | {"tool_samples", "pairs", "burst_events", "n_traces"}
)
_UNITS = (
    ("_pct", "%"), ("_cv", "%"), ("_utilization", "%"), ("_gb", "GB"), ("_mb", "MB"), ("_s", "s"),
    ("mem_spike", "MB"), ("peak_mem", "MB"), ("mem_accumulation", "MB"), ("cpu_spike", "%"),
    ("peak_cpu", "%"), ("retry_time", "s"), (".s", "s"), (".pct", "%"), ("alloc_avg", "MB"),
    ("peak_avg", "MB"), ("peak_p95", "MB"), ("_duration", "s"), ("_time", "s"),
    ("avg_peak", "MB"), ("max_peak", "MB"), ("avg_avg", "MB"), ("_mem", "MB"), ("_cpu", "%"),
    ("peak_mem_min", "MB"), ("peak_mem_max", "MB"), ("peak_mem_mean", "MB"),
    ("peak_cpu_min", "%"), ("peak_cpu_max", "%"), ("mem_delta_mean", "MB"), ("mem_delta_max", "MB"),
    ("cpu_delta_mean", "%"), ("cpu_delta_max", "%"), ("per_turn", "tokens"),
    ("total_output", "tokens"),
)  # fmt: skip


def _unit(quantity: str, definition: Definition) -> str:
    last = quantity.rpartition(".")[2]
    if definition.unit == "r" or last in _COUNTS:
        return definition.unit if definition.unit == "r" else ""
    for ending, unit in _UNITS:
        if f".{last}".endswith(ending):
            return unit
    return definition.unit
