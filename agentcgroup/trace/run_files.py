# SPDX-License-Identifier: Apache-2.0
"""Runs as a JSON file (schema 1), whoever made them: a replay or the simulator."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ratios import ratios
from .results import SCHEMA, RunResult

__all__ = ["report_json", "write_report"]


def report_json(results: Sequence[RunResult], seed: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "runs": [result.as_json() for result in results],
        "ratios": ratios(results, seed),
    }


def write_report(path: Path, results: Sequence[RunResult], seed: int) -> None:
    """Atomically: half a report never has the name of a whole one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(report_json(results, seed), indent=1) + "\n"
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
