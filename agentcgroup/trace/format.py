# SPDX-License-Identifier: Apache-2.0
"""The project's own trace: a header line, then one JSON record a line (traces/README.md).

Plain, .gz or .zst by suffix. Written by appending only, so that what a crash leaves is
a good beginning with a damaged tail; the reader reports the tail and ignores it. Times
are ns of CLOCK_MONOTONIC; `epoch_ns` in the header is the Unix time at t_ns 0. A plain
file that is opened again gets a further header line; the reader shifts what follows to
the first header's clock.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from ..clock import Clock, MonotonicClock
from ..errors import FormatError, NotSupportedError
from ..units import NS_PER_MS
from .records import FORMAT_NAME, FORMAT_VERSION, Record, check_header, check_record

__all__ = ["Damage", "Trace", "TraceReader", "TraceWriter", "read_trace"]

# No writer comes near it; a file without line ends must not fill the memory.
MAX_LINE_BYTES = 16 << 20

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_PLAIN, _GZIP, _ZSTD = "plain", "gzip", "zstd"


def _compression(path: Path) -> str:
    return {".gz": _GZIP, ".zst": _ZSTD}.get(path.suffix, _PLAIN)


def _zstandard() -> Any:
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise NotSupportedError(
            "cannot read or write .zst: the Python module zstandard is not installed;"
            " install it, or use a .gz or plain file"
        ) from None
    return zstandard


def make_header(host: Mapping[str, Any] | None = None, epoch_ns: int | None = None) -> Record:
    """Line 1. Without `epoch_ns`: the Unix time at which CLOCK_MONOTONIC was 0."""
    if epoch_ns is None:
        epoch_ns = time.time_ns() - time.monotonic_ns()
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "clock": "monotonic",
        "epoch_ns": epoch_ns,
        "host": dict(host or {}),
    }


class TraceWriter:
    """Appends records to `path`; at most `flush_records` records or `flush_ms` stay unwritten.

    The time bound is looked at on each write: call `flush()` when nothing more comes.
    Not thread-safe. FormatError for a record that readers would refuse.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        host: Mapping[str, Any] | None = None,
        *,
        epoch_ns: int | None = None,
        flush_records: int = 256,
        flush_ms: int = 500,
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path)
        self._clock = clock or MonotonicClock()
        self._flush_records = flush_records
        self._flush_ns = flush_ms * NS_PER_MS
        self._pending = 0
        self._flushed_ns = self._clock.now_ns()
        self.written_count = 0
        self._stream = _open_for_append(self.path)
        self._put(make_header(host, epoch_ns))
        self.flush()

    def write(self, record: Mapping[str, Any]) -> None:
        self._put(check_record(dict(record), self.written_count + 2))
        self.written_count += 1
        self._pending += 1
        late = self._clock.now_ns() - self._flushed_ns >= self._flush_ns
        if late or self._pending >= self._flush_records:
            self.flush()

    def flush(self) -> None:
        self._stream.flush()
        self._pending = 0
        self._flushed_ns = self._clock.now_ns()

    def close(self) -> None:
        self._stream.close()

    def _put(self, record: Mapping[str, Any]) -> None:
        try:
            line = _encode(record)
        except (TypeError, ValueError) as problem:
            raise FormatError("record", record, f"must be plain JSON ({problem})") from None
        self._stream.write(line.encode("utf-8", "surrogateescape") + b"\n")

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_for_append(path: Path) -> IO[bytes]:
    compression = _compression(path)
    existing = path.exists() and path.stat().st_size > 0
    if compression is not _PLAIN:
        if existing:
            raise FormatError(
                "path", str(path), "a compressed trace can't be continued: choose a new name"
            )
        if compression == _GZIP:
            return cast(IO[bytes], gzip.open(path, "wb", compresslevel=6))
        return cast(IO[bytes], _zstandard().open(path, "wb"))
    plain = path.open("ab")
    if existing:
        # A crash may have left half a line: end it, so that the header stands alone.
        with path.open("rb") as tail:
            tail.seek(-1, os.SEEK_END)
            if tail.read(1) != b"\n":
                plain.write(b"\n")
    return plain


@dataclass(frozen=True, slots=True)
class Damage:
    """What was ignored at the end of a trace (or before a further header)."""

    line: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}; ignored from here"


@dataclass(slots=True)
class Trace:
    header: Record
    records: list[Record]
    damage: list[Damage] = field(default_factory=list)


class TraceReader:
    """Iterates over the checked records of `path`; `damage` is complete after the last one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.damage: list[Damage] = []
        self._lines = _numbered_lines(self.path, self.damage)
        try:
            number, raw = next(self._lines)
        except StopIteration:
            problem = str(self.damage[0]) if self.damage else "it is empty"
            raise FormatError(
                "path", str(self.path), f"the file holds no trace: {problem}"
            ) from None
        try:
            first = _decode(raw)
        except ValueError:
            first = raw.decode("utf-8", "replace").strip()
        self.header = check_header(first, self.path.name)
        self._line = number

    def __iter__(self) -> Iterator[Record]:
        shift_ns = 0
        broken: Damage | None = None
        for number, raw in self._lines:
            try:
                record = _decode(raw)
            except ValueError as problem:
                if broken is not None:
                    raise _not_json(broken) from None
                broken = Damage(number, f"not JSON ({problem})")
                continue
            if type(record) is dict and record.get("format") == FORMAT_NAME:
                header = check_header(record, self.path.name)
                shift_ns = header["epoch_ns"] - self.header["epoch_ns"]
                if broken is not None:
                    self.damage.append(broken)
                    broken = None
                continue
            if broken is not None:
                raise _not_json(broken)
            checked = check_record(record, number)
            if shift_ns:
                checked["t_ns"] = max(0, checked["t_ns"] + shift_ns)
            yield checked
        if broken is not None:
            self.damage.append(broken)


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """All records of `path`, in file order."""
    reader = TraceReader(path)
    records = list(reader)
    return Trace(reader.header, records, reader.damage)


def _not_json(damage: Damage) -> FormatError:
    return FormatError(
        f"line {damage.line}", damage.problem, "only the last line of a trace may be damaged"
    )


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number here")


def _numbered_lines(path: Path, damage: list[Damage]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank; a stream that breaks off ends the iteration with a report."""
    errors: tuple[type[BaseException], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    try:
        stream = _open_for_reading(path)
    except OSError as problem:
        raise FormatError("path", str(path), f"can't be opened: {problem.strerror}") from None
    if _compression(path) == _ZSTD:
        errors = (*errors, _zstandard().ZstdError)
    number = 0
    with stream:
        while True:
            try:
                raw = stream.readline(MAX_LINE_BYTES + 1)
            except errors as problem:
                damage.append(Damage(number + 1, f"the compressed stream breaks off ({problem})"))
                return
            if not raw:
                return
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise FormatError(
                    f"line {number}", "more", f"a record has at most {MAX_LINE_BYTES} bytes"
                )
            if not raw.isspace():
                yield number, raw


def _open_for_reading(path: Path) -> IO[bytes]:
    compression = _compression(path)
    if compression == _GZIP:
        return cast(IO[bytes], gzip.open(path, "rb"))
    if compression == _ZSTD:
        return cast(IO[bytes], _zstandard().open(path, "rb"))
    return path.open("rb")
