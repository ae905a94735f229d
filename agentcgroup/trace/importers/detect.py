# SPDX-License-Identifier: Apache-2.0
"""Which importer a recording belongs to, told from its content and never from its name."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import FormatError
from ..records import FORMAT_NAME
from .agentcgroup import import_task_directory, is_task_directory
from .agentstop import import_runs, looks_like_runs
from .files import find, numbered_lines
from .imported import Imported
from .stats import import_stats
from .stats_rows import looks_like_stats

__all__ = ["import_source", "is_foreign"]

_KNOWN = (
    "known are AgentCgroup task directories (resources.json), AgentStop runs"
    " (trajectories.jsonl), and logs of docker stats or podman stats"
)


def import_source(path: Path, *, as_authors: bool = False, interval_s: float = 1.0) -> Imported:
    """The recording as records; FormatError if no importer knows it.

    `as_authors`: MB are 1024 x 1024 bytes in task directories. `interval_s`: between the
    rounds of a stats log that carries no times.
    """
    if not path.exists():
        raise FormatError("source", str(path), "there is no such file or directory")
    if path.is_dir():
        return _import_directory(path, as_authors)
    first = next((text for _, text in numbered_lines(path)), "")
    header = _json(first)
    if _is_own(header):
        raise FormatError(
            "source", str(path), "a trace needs no import: show, convert or replay it as it is"
        )
    if looks_like_runs(header):
        return import_runs(path)
    if looks_like_stats(first):
        return import_stats(path, interval_s=interval_s)
    if is_task_file(path):
        return import_task_directory(path.parent, as_authors=as_authors)
    raise FormatError("source", str(path), _KNOWN)


def is_foreign(path: Path) -> bool:
    """A file that is no trace of this project's own format."""
    header = _json(next((text for _, text in numbered_lines(path)), ""))
    return not _is_own(header) and (looks_like_runs(header) or _starts_as_stats(path))


def is_task_file(path: Path) -> bool:
    return path.name in ("resources.json", "resources.json.gz") and is_task_directory(path.parent)


def _starts_as_stats(path: Path) -> bool:
    return looks_like_stats(next((text for _, text in numbered_lines(path)), ""))


def _import_directory(path: Path, as_authors: bool) -> Imported:
    runs = find(path, "trajectories.jsonl")
    if runs is not None:
        return import_runs(runs)
    if is_task_directory(path):
        return import_task_directory(path, as_authors=as_authors)
    raise FormatError("source", str(path), _KNOWN)


def _is_own(header: object) -> bool:
    return isinstance(header, dict) and header.get("format") == FORMAT_NAME


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
