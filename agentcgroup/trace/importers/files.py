# SPDX-License-Identifier: Apache-2.0
"""Reading what others wrote: plain or gzip, never more of it than fits in memory.

A few kilobytes of gzip can hold gigabytes: every read has a bound, and what is beyond it
is an error that names the file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from ...errors import FormatError
from .imported import Changes

__all__ = ["MAX_FILE_BYTES", "MAX_LINE_BYTES", "find", "numbered_lines", "read_json"]

# The authors' largest file has 3 MB.
MAX_FILE_BYTES = 256 << 20
MAX_LINE_BYTES = 16 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def find(directory: Path, name: str) -> Path | None:
    """`name` or `name`.gz in the directory."""
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as head:
        compressed = head.read(2) == _GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if compressed else path.open("rb")


def read_json(path: Path) -> Any:
    """The one JSON document in `path`; FormatError if it is none or too large."""
    try:
        with _open(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise FormatError(
            str(path), str(problem), "must be a readable gzip or plain file"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(str(path), "more", f"must have at most {MAX_FILE_BYTES >> 20} MiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise FormatError(str(path), str(problem), "must be JSON") from None


def numbered_lines(path: Path, changes: Changes | None = None) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, from 1, without their end; foreign bytes are replaced.

    A compressed stream that breaks off ends the lines, and counts as a change. FormatError for a
    line without end.
    """
    try:
        stream = _open(path)
    except OSError as problem:
        raise FormatError("path", str(path), f"can't be opened: {problem.strerror}") from None
    number = 0
    with stream:
        while True:
            try:
                raw = stream.readline(MAX_LINE_BYTES + 1)
            except (OSError, EOFError, zlib.error):
                if changes is not None:
                    changes.add(f"{path.name} breaks off after line {number}: the rest is missing")
                return
            if not raw:
                return
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise FormatError(
                    f"{path}: line {number}", "more", f"must have at most {MAX_LINE_BYTES} bytes"
                )
            if not raw.isspace():
                yield number, raw.decode("utf-8", "replace").rstrip("\r\n")
