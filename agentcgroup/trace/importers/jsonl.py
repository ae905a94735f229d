# SPDX-License-Identifier: Apache-2.0
"""JSON objects a line, of others. Half a last line is left out; any other is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import FormatError
from .files import numbered_lines
from .imported import Changes

__all__ = ["read_objects"]


def read_objects(
    path: Path, changes: Changes | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object); FormatError names the line that holds none."""
    broken: FormatError | None = None
    for number, text in numbered_lines(path, changes):
        if broken is not None:
            raise broken
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as problem:
            broken = FormatError(f"{path}: line {number}", str(problem), "must be a JSON object")
            continue
        if not isinstance(value, dict):
            raise FormatError(f"{path}: line {number}", value, "must be a JSON object")
        yield number, value
    if broken is not None and changes is not None:
        changes.add(f"left out half a last line of {path.name}")
