# SPDX-License-Identifier: Apache-2.0
"""Samples a session's cgroup and the leaves of its calls into a trace.

Knows cgroup files only as texts that a source hands over; who makes the cgroups and
runs the commands is not its business. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from .format import TraceWriter
from .records import Record

__all__ = ["Recorder", "TextSource", "sample_fields"]

# memory.stat's key -> the record's field.
_STAT = {"anon": "anon_bytes", "file": "file_bytes", "inactive_file": "inactive_file_bytes"}


class TextSource(Protocol):
    """A cgroup; None for a file that is not there, or when the cgroup is gone."""

    def try_read(self, file: str) -> str | None: ...


def sample_fields(source: TextSource) -> Record:
    """What one look at a cgroup gives; fields of missing files are left out."""
    found: Record = {}
    for file, field in (
        ("memory.current", "memory_current_bytes"),
        ("memory.swap.current", "swap_current_bytes"),
        ("pids.current", "pids_count"),
    ):
        text = source.try_read(file)
        if text is not None and text.strip().isdecimal():
            found[field] = int(text)
    for key, value in _keyed(source.try_read("memory.stat")):
        if key in _STAT:
            found[_STAT[key]] = value
    for key, value in _keyed(source.try_read("cpu.stat")):
        if key == "usage_usec":
            found["cpu_usage_us"] = value
            break
    found |= _io_fields(source.try_read("io.stat"))
    for resource in ("memory", "cpu", "io"):
        found |= _pressure_fields(resource, source.try_read(f"{resource}.pressure"))
    return found


def _io_fields(text: str | None) -> Record:
    """Sums over devices; nothing if there was no traffic."""
    totals = {"rbytes": 0, "wbytes": 0}
    pairs = (word.partition("=") for word in (text or "").split())
    for key, _, value in pairs:
        if key in totals and value.isdecimal():
            totals[key] += int(value)
    if not any(totals.values()):
        return {}
    return {"io_read_bytes": totals["rbytes"], "io_write_bytes": totals["wbytes"]}


def _pressure_fields(resource: str, text: str | None) -> Record:
    """Total us that some, and that all, stood still for want of the resource."""
    found: Record = {}
    for line in (text or "").splitlines():
        share, _, figures = line.partition(" ")
        total = figures.rpartition("total=")[2]
        if share in ("some", "full") and total.isdecimal():
            found[f"{resource}_{share}_us"] = int(total)
    return found


def _keyed(text: str | None) -> list[tuple[str, int]]:
    pairs = (line.partition(" ") for line in (text or "").splitlines())
    return [(key, int(value)) for key, _, value in pairs if value.isdecimal()]


class Recorder(threading.Thread):
    """Writes a sample of everything known each `interval_ms`, until stopped.

    `begin` and `end` may be called from any thread; the writer is used under a lock.
    """

    def __init__(
        self,
        writer: TraceWriter,
        session: str,
        source: TextSource,
        *,
        now_ns: Callable[[], int],
        interval_ms: int = 50,
    ) -> None:
        super().__init__(name="trace recorder", daemon=True)
        self._writer = writer
        self._session = session
        self._source = source
        self._now_ns = now_ns
        self._interval_s = interval_ms / 1000
        self._calls: dict[str, TextSource] = {}
        self._lock = threading.Lock()
        self._stop_event = threading.Event()
        self.error: OSError | None = None

    def about(self, **fields: Any) -> None:
        """The session record: what the session is."""
        self._write("session", None, fields)

    def begin(self, call: str, source: TextSource, **fields: Any) -> None:
        with self._lock:
            self._put("call_begin", call, fields)
            self._calls[call] = source

    def end(self, call: str, **fields: Any) -> None:
        """The call's last sample, its peak and its end."""
        with self._lock:
            source = self._calls.pop(call)
            last = sample_fields(source)
            if last:
                self._put("sample", call, last)
            peak = source.try_read("memory.peak")
            if peak is not None and peak.strip().isdecimal():
                fields = {**fields, "memory_peak_bytes": int(peak)}
            self._put("call_end", call, fields)

    def note(self, record: Record) -> None:
        """Write what another one saw, at the time at which it did."""
        with self._lock:
            self._writer.write(record)

    def watch(self, call: str, source: TextSource) -> None:
        """Sample a call whose beginning is noted by another one, until `unwatch`."""
        with self._lock:
            self._calls[call] = source

    def unwatch(self, call: str) -> None:
        with self._lock:
            self._calls.pop(call, None)

    def run(self) -> None:
        try:
            while not self._stop_event.wait(self._interval_s):
                self.sample()
        except OSError as problem:  # a full disk; the owner learns of it from stop()
            self.error = problem

    def sample(self) -> None:
        with self._lock:
            fields = sample_fields(self._source)
            if fields:
                self._put("sample", None, fields)
            for call, source in self._calls.items():
                fields = sample_fields(source)
                if fields:
                    self._put("sample", call, fields)

    def stop(self) -> None:
        """One more sample and the end record; raises what stopped the thread before."""
        self._stop_event.set()
        if self.ident is not None:
            self.join()
        if self.error is not None:
            raise self.error
        self.sample()
        self._write("end", None, {})

    def _write(self, kind: str, call: str | None, fields: Record) -> None:
        with self._lock:
            self._put(kind, call, fields)

    def _put(self, kind: str, call: str | None, fields: Record) -> None:
        record: Record = {"t_ns": self._now_ns(), "kind": kind, "session": self._session}
        if call is not None:
            record["call"] = call
        self._writer.write({**record, **fields})
