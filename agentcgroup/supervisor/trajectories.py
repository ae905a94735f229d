# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of an agent, one JSON object a line (plain or gzip): read for training.

Format: that of the AgentStop FRAMES data. Labels and totals are kept apart from the steps:
what a predictor sees is `Run.steps`, the same records an agent reports online. Energies
come in milliwatt-hours and leave in joules; what is null stays unknown.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import FormatError
from ..types.steps import StepReport
from ..types.validation import parse

__all__ = ["Run", "fingerprint", "population", "read_runs", "run_mark"]

JOULES_PER_MWH = 3.6
_CODE = "<code"
_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\(")
_MAX_CALLS = 64
Count = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Step(BaseModel):
    model_config = ConfigDict(extra="ignore")

    step: Annotated[int, Field(ge=0)]
    prompt_tokens: Count
    completion_tokens: Count
    duration_s: Count | None = None
    energy_mwh: Count | None = None
    logprobs: list[Annotated[float, Field(le=0, allow_inf_nan=False)]] = []
    tokens: list[str] = []


class _Run(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(min_length=1, max_length=256)]
    success: bool | None = None
    answerable_without_agent: bool | None = None
    total_energy_mwh: Count | None = None
    steps: Annotated[list[_Step], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `step_energy_j` is per step; a label is None where the file has none."""

    id: str
    steps: tuple[StepReport, ...]
    step_energy_j: tuple[float | None, ...]
    total_energy_j: float | None
    success: bool | None
    answerable_without_agent: bool | None


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run of the files, in order; FormatError names file, line, field and remedy."""
    runs: list[Run] = []
    known: dict[str, str] = {}
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            run = _parse(line, where)
            if run.id in known:
                raise FormatError(
                    f"{where}: id", run.id, f"ids must differ; {known[run.id]} has it"
                )
            known[run.id] = where
            runs.append(run)
    if not runs:
        raise FormatError("FILE", ", ".join(map(str, paths)), "give files with at least one run")
    return runs


def fingerprint(runs: Sequence[Run]) -> str:
    """sha256 of ids, labels and token counts: which data a model was made from."""
    digest = hashlib.sha256()
    for run in sorted(runs, key=lambda run: run.id):
        counts = [[step.prompt_tokens, step.completion_tokens] for step in run.steps]
        digest.update(json.dumps([run.id, run.success, counts]).encode() + b"\n")
    return digest.hexdigest()


def population(runs: Sequence[Run]) -> tuple[list[Run], str]:
    """The runs that tell of an agent's worth: not those whose question the bare model
    answers; and what they are called."""
    kept = [run for run in runs if run.answerable_without_agent is not True]
    if all(run.answerable_without_agent is None for run in runs):
        return kept, "all runs"
    return kept, "answerable_without_agent is not true"


def run_mark(run: Run) -> str:
    """A few hex digits that tell whether a run was fitted, without telling the run."""
    return hashlib.sha256(run.id.encode()).hexdigest()[:12]


def _lines(path: Path) -> Iterator[str]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as file
        ):
            yield from file
    except (EOFError, zlib.error, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise FormatError(str(path), str(error), "give a whole file: JSON lines, UTF-8") from None
    except OSError as error:
        raise FormatError(str(path), error.strerror, "name a file that can be read") from None


def _parse(line: str, where: str) -> Run:
    try:
        raw = _Run.model_validate(json.loads(line))
    except ValidationError as failure:
        first: Any = failure.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "run"
        raise FormatError(f"{where}: {field}", first.get("input"), str(first["msg"])) from None
    except ValueError as error:
        raise FormatError(where, str(error), "every line must be one JSON object") from None
    for index, step in enumerate(raw.steps):
        if step.step != index:
            raise FormatError(
                f"{where}: steps.{index}.step", step.step, "steps must count from 0 without a gap"
            )
        if step.tokens and step.logprobs and len(step.tokens) != len(step.logprobs):
            raise FormatError(
                f"{where}: steps.{index}.logprobs",
                f"{len(step.logprobs)} for {len(step.tokens)} tokens",
                "give one log-probability for each token",
            )
    return Run(
        id=raw.id,
        steps=tuple(_report(step, where) for step in raw.steps),
        step_energy_j=tuple(_joules(step.energy_mwh) for step in raw.steps),
        total_energy_j=_joules(raw.total_energy_mwh),
        success=raw.success,
        answerable_without_agent=raw.answerable_without_agent,
    )


def _joules(energy_mwh: float | None) -> float | None:
    return None if energy_mwh is None else energy_mwh * JOULES_PER_MWH


def _report(step: _Step, where: str) -> StepReport:
    """As the agent would report it. Where tokens are listed, they are what is counted."""
    text = "".join(step.tokens).replace("\\n", "\n")  # the file holds newlines escaped
    listed = len(step.logprobs) or len(step.tokens)
    called = _CALLED.findall(text[text.find(_CODE) :]) if _CODE in text else []
    told = {
        "step": step.step,
        "prompt_tokens": round(step.prompt_tokens),
        "completion_tokens": listed or round(step.completion_tokens),
        "thought_tokens": _thought_tokens(step.tokens) if step.tokens else None,
        "logprobs": step.logprobs or None,
        "text": text or None,
        "tool_calls": called[:_MAX_CALLS],
    }
    return parse(StepReport, told, f"{where}: steps.{step.step}", FormatError)


def _thought_tokens(tokens: Sequence[str]) -> int:
    """Tokens before the first that opens code; all without one (AgentStop's definition)."""
    return next((at for at, token in enumerate(tokens) if token == _CODE), len(tokens))
