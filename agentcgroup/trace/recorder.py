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

__all__ = ["FILES", "Recorder", "Sampler", "TextSource"]

RARELY_NS = 500_000_000
MEMORY_CURRENT, MEMORY_SWAP_CURRENT = "memory.current", "memory.swap.current"
MEMORY_STAT, CPU_STAT, IO_STAT, PIDS_CURRENT = "memory.stat", "cpu.stat", "io.stat", "pids.current"
PRESSURE = {resource: f"{resource}.pressure" for resource in ("memory", "cpu", "io")}
# memory.stat's key -> the record's field.
_STAT = {"anon": "anon_bytes", "file": "file_bytes", "inactive_file": "inactive_file_bytes"}


FILES = (
    MEMORY_CURRENT, CPU_STAT, MEMORY_SWAP_CURRENT, MEMORY_STAT, PIDS_CURRENT, IO_STAT,
    *PRESSURE.values(),
)  # fmt: skip


class TextSource(Protocol):
    """A cgroup; None for a file that is not there, or when the cgroup is gone."""

    def try_read(self, file: str) -> str | None: ...


class Sampler:
    """Looks at one cgroup again and again.

    Kinds of memory are read again when the cgroup holds something else or used CPU: else nothing
    ran in it. Processes, I/O and pressure are read every RARELY_NS; their figures are sums, so
    nothing is lost between.
    """

    def __init__(self, source: TextSource) -> None:
        self._source = source
        self._moving: Record = {}
        self._kinds: Record = {}
        self._due_ns: int | None = None

    def look(self, now_ns: int, *, whole: bool = False) -> Record:
        """Fields of a sample; those of missing files are left out. `whole`: read all there is."""
        moving: Record = {}
        _add_number(moving, "memory_current_bytes", self._source.try_read(MEMORY_CURRENT))
        used = _figure(self._source.try_read(CPU_STAT), "usage_usec")
        if used is not None:
            moving["cpu_usage_us"] = used
        if whole or moving != self._moving or len(moving) < 2:
            self._moving, self._kinds = moving, _memory_fields(self._source)
        found = {**moving, **self._kinds}
        if whole or self._due_ns is None or now_ns >= self._due_ns:
            self._due_ns = now_ns + RARELY_NS
            found |= _rare_fields(self._source)
        return found


def _memory_fields(source: TextSource) -> Record:
    found: Record = {}
    _add_number(found, "swap_current_bytes", source.try_read(MEMORY_SWAP_CURRENT))
    stat = source.try_read(MEMORY_STAT)
    for key, field in _STAT.items():
        value = _figure(stat, key)
        if value is not None:
            found[field] = value
    return found


def _rare_fields(source: TextSource) -> Record:
    found: Record = {}
    _add_number(found, "pids_count", source.try_read(PIDS_CURRENT))
    found |= _io_fields(source.try_read(IO_STAT))
    for resource, file in PRESSURE.items():
        found |= _pressure_fields(resource, source.try_read(file))
    return found


def _add_number(found: Record, field: str, text: str | None) -> None:
    if text is not None and text.strip().isdecimal():
        found[field] = int(text)


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
    for line in (text or "").split("\n"):
        total = line[line.rfind("total=") + 6 :]
        if total.isdecimal() and line[:4] in ("some", "full"):
            found[f"{resource}_{line[:4]}_us"] = int(total)
    return found


def _figure(text: str | None, key: str) -> int | None:
    """Of one line of a flat keyed file, without a look at the others."""
    if text is None:
        return None
    if text.startswith(f"{key} "):
        begin = len(key) + 1
    else:
        begin = text.find(f"\n{key} ")
        if begin < 0:
            return None
        begin += len(key) + 2
    end = text.find("\n", begin)
    value = text[begin:] if end < 0 else text[begin:end]
    return int(value) if value.isdecimal() else None


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
        self._sampler = Sampler(source)
        self._now_ns = now_ns
        self._interval_s = interval_ms / 1000
        self._calls: dict[str, tuple[TextSource, Sampler]] = {}
        self._lock = threading.Lock()
        self._stop_event = threading.Event()
        self.error: OSError | None = None

    def about(self, **fields: Any) -> None:
        """The session record: what the session is."""
        self._write("session", None, fields)

    def begin(self, call: str, source: TextSource, **fields: Any) -> None:
        with self._lock:
            self._put("call_begin", call, fields)
            self._calls[call] = source, Sampler(source)

    def end(self, call: str, **fields: Any) -> None:
        """The call's last sample, its peak and its end."""
        with self._lock:
            source, sampler = self._calls.pop(call)
            last = sampler.look(self._now_ns(), whole=True)
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
            self._calls[call] = source, Sampler(source)

    def unwatch(self, call: str) -> None:
        with self._lock:
            self._calls.pop(call, None)

    def run(self) -> None:
        try:
            while not self._stop_event.wait(self._interval_s):
                self.sample()
        except OSError as problem:  # a full disk; the owner learns of it from stop()
            self.error = problem

    def sample(self, *, whole: bool = False) -> None:
        with self._lock:
            now_ns = self._now_ns()
            fields = self._sampler.look(now_ns, whole=whole)
            if fields:
                self._put("sample", None, fields)
            for call, (_, sampler) in self._calls.items():
                fields = sampler.look(now_ns, whole=whole)
                if fields:
                    self._put("sample", call, fields)

    def stop(self) -> None:
        """One more sample and the end record; raises what stopped the thread before."""
        self._stop_event.set()
        if self.ident is not None:
            self.join()
        if self.error is not None:
            raise self.error
        self.sample(whole=True)
        self._write("end", None, {})

    def _write(self, kind: str, call: str | None, fields: Record) -> None:
        with self._lock:
            self._put(kind, call, fields)

    def _put(self, kind: str, call: str | None, fields: Record) -> None:
        record: Record = {"t_ns": self._now_ns(), "kind": kind, "session": self._session}
        if call is not None:
            record["call"] = call
        self._writer.write({**record, **fields})
