# SPDX-License-Identifier: Apache-2.0
"""Reader of the AgentStop runs on FRAMES: one agent run a line, steps with log probabilities.

Source: brave-experiments/AgentStop, as packaged in `trajectories.jsonl`. Energies are
milliwatt-hours of the step (CPU and GPU). Runs carry durations and no times of day.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...units import NS_PER_S
from ..records import Record
from .imported import Changes, Imported
from .jsonl import read_objects

__all__ = ["import_runs", "looks_like_runs"]

_JOULES_PER_MWH = 3.6


def looks_like_runs(first: Any) -> bool:
    return isinstance(first, dict) and {"id", "steps", "total_energy_mwh"} <= first.keys()


def import_runs(path: Path) -> Imported:
    """A session a run; they are placed one after another, for their times are unknown."""
    changes = Changes()
    records: list[Record] = []
    begin_ns = 0
    for line, run in read_objects(path, changes):
        where = f"{path}: line {line}"
        if not looks_like_runs(run):
            raise FormatError(where, sorted(run)[:8], "a run has id, steps and total_energy_mwh")
        found = _run(run, begin_ns, where, changes)
        records += found
        begin_ns = found[-1]["t_ns"]
    if not records:
        raise FormatError("path", str(path), "the file holds no runs")
    changes.add("runs carry no times: placed one after another")
    return Imported("agentstop", records, 0, changes.lines())


def _run(run: dict[str, Any], begin_ns: int, where: str, changes: Changes) -> list[Record]:
    name, steps = run["id"], run["steps"]
    if not isinstance(name, str) or not name:
        raise FormatError(f"{where}: id", name, "must be a text that is not empty")
    if not isinstance(steps, list):
        raise FormatError(f"{where}: steps", steps, "must be a list")
    about: Record = {"t_ns": begin_ns, "kind": "session", "session": name}
    for key in ("success", "answerable_without_agent"):
        if isinstance(run.get(key), bool):
            about[key] = run[key]
    if (energy := _number(run["total_energy_mwh"])) is not None:
        about["energy_j"] = energy * _JOULES_PER_MWH
    records = [about]
    at_ns = begin_ns
    for index, step in enumerate(steps):
        if not isinstance(step, dict):
            raise FormatError(f"{where}: steps[{index}]", step, "must be an object")
        fields = _step(step, f"{where}: steps[{index}]", changes)
        at_ns += round(fields.get("duration_s", 0) * NS_PER_S)
        records.append({"t_ns": at_ns, "kind": "step", "session": name, **fields})
    whole_ns = begin_ns + round((_number(run.get("duration_s")) or 0) * NS_PER_S)
    records.append({"t_ns": max(at_ns, whole_ns), "kind": "end", "session": name})
    return records


def _step(step: dict[str, Any], where: str, changes: Changes) -> Record:
    fields: Record = {}
    for name in ("step", "prompt_tokens", "completion_tokens"):
        value = _number(step.get(name))
        if value is None or value != int(value):
            raise FormatError(
                f"{where}.{name}", step.get(name), "must be a whole number, 0 or more"
            )
        fields[name] = int(value)
    if (duration_s := _number(step.get("duration_s"))) is None:
        changes.add("step without a duration: placed at the end of the one before")
    else:
        fields["duration_s"] = duration_s
    if (energy := _number(step.get("energy_mwh"))) is None:
        changes.add("step without an energy")
    else:
        fields["energy_j"] = energy * _JOULES_PER_MWH
    logprobs, tokens = step.get("logprobs"), step.get("tokens")
    if isinstance(logprobs, list) and all(_finite(p) for p in logprobs):
        fields["logprobs"] = logprobs
    else:
        changes.add("step without usable log probabilities")
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        fields["tokens"] = tokens
    return fields


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return float(value) if _finite(value) and value >= 0 else None
