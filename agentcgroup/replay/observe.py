# SPDX-License-Identifier: Apache-2.0
"""Watches the sessions of a run from outside: memory over time, kills, pressure.

Reads through descriptors opened once: a cgroup file gives its present value at every
pread of offset 0.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping

from ..cgroupfs import files, parse
from ..cgroupfs.api import CgroupLike
from ..errors import NotSupportedError
from ..trace.results import SessionResult

__all__ = ["Observer"]

_CHUNK = 4096


class _Watched:
    def __init__(self, cgroup: CgroupLike, result: SessionResult) -> None:
        self.cgroup = cgroup
        self.result = result
        self.kills = 0
        self.fds = [
            cgroup.open_file(name, os.O_RDONLY)
            for name in (files.MEMORY_CURRENT, files.MEMORY_EVENTS)
        ]

    def look(self, at_s: float) -> None:
        try:
            current = int(os.pread(self.fds[0], _CHUNK, 0))
            events = parse.flat_keyed(os.pread(self.fds[1], _CHUNK, 0).decode())
        except OSError:  # the cgroup is gone
            return
        self.result.timeline.append((at_s, current))
        kills = events.get("oom_kill", 0)
        if kills > self.kills:
            self.result.kill_times_s += [at_s] * (kills - self.kills)
            self.kills = kills

    def finish(self) -> None:
        """Final figures. Must run while the cgroup still exists."""
        self.result.oom_kills = self.kills
        with contextlib.suppress(NotSupportedError):  # memory.peak: Linux 5.19
            self.result.cgroup_peak_bytes = self.cgroup.read_int(files.MEMORY_PEAK)
        psi = parse.pressure(self.cgroup.try_read(files.MEMORY_PRESSURE) or "")
        if "some" in psi:
            self.result.pressure_some_ms = psi["some"].total_us / 1000
        if "full" in psi:
            self.result.pressure_full_ms = psi["full"].total_us / 1000

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class Observer(threading.Thread):
    """`with Observer(…)`: samples until the block ends, then reads the final figures."""

    def __init__(
        self,
        sessions: Mapping[str, tuple[CgroupLike, SessionResult]],
        *,
        start_ns: int,
        sample_ms: int,
    ) -> None:
        super().__init__(name="replay observer", daemon=True)
        self._watched = [_Watched(cgroup, result) for cgroup, result in sessions.values()]
        self._start_ns = start_ns
        self._period_s = sample_ms / 1000
        self._stop_event = threading.Event()

    def run(self) -> None:
        while not self._stop_event.wait(self._period_s):
            self._look()

    def _look(self) -> None:
        at_s = (time.monotonic_ns() - self._start_ns) / 1e9
        if at_s >= 0:
            for watched in self._watched:
                watched.look(at_s)

    def __enter__(self) -> Observer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self.join()
        self._look()
        for watched in self._watched:
            with contextlib.suppress(FileNotFoundError):
                watched.finish()
            watched.close()
