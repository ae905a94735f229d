# SPDX-License-Identifier: Apache-2.0
"""How long a thread slept while it should have run: what blocks an event loop.

From the kernel's own trace (tracefs): a sleep begins when the scheduler takes the thread off the
CPU in any state but runnable and ends when somebody wakes it. Sleeps inside epoll_wait are
the loop at rest and don't count; time in which it was runnable and another ran is not sleep.
Source: Documentation/trace/events.rst of the kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

__all__ = ["LoopSleeps", "sleeps_ms"]

INSTANCES = Path("/sys/kernel/tracing/instances")
BUFFER_KIB = 8192

_LINE = re.compile(r"\s(?P<s>\d+\.\d+): (?P<what>\w+)(?P<rest>.*)")
_STATE = re.compile(r"prev_state=(\S+)")


class LoopSleeps:
    """Traces one thread from enter to exit; then `found_ms` has every sleep of its."""

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id
        self._instance = INSTANCES / f"agentcgroup-{thread_id}"
        self.found_ms: list[float] = []

    def __enter__(self) -> LoopSleeps:
        self._instance.mkdir()
        self._set("trace_clock", "mono")
        self._set("buffer_size_kb", str(BUFFER_KIB))
        for event, of_it in (
            ("sched/sched_switch", "prev_pid"),
            ("sched/sched_waking", "pid"),
            ("syscalls/sys_enter_epoll_wait", "common_pid"),
            ("syscalls/sys_exit_epoll_wait", "common_pid"),
        ):
            self._set(f"events/{event}/filter", f"{of_it} == {self._thread_id}")
            self._set(f"events/{event}/enable", "1")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._set("tracing_on", "0")
        self.found_ms = sleeps_ms((self._instance / "trace").read_text(errors="replace"))
        self._instance.rmdir()

    def _set(self, file: str, value: str) -> None:
        (self._instance / file).write_text(value)


def sleeps_ms(trace: str) -> list[float]:
    """Every sleep outside epoll_wait, in ms."""
    found: list[float] = []
    resting = True  # until it is seen to enter: what was before is not known
    slept_from_s: float | None = None
    for line in trace.splitlines():
        match = None if line.startswith("#") else _LINE.search(line)
        if match is None:
            continue
        at_s, what, rest = float(match["s"]), match["what"], match["rest"]
        if what == "sys_epoll_wait":
            resting = rest.startswith("(")
            slept_from_s = None
        elif what == "sched_switch":
            state = _STATE.search(rest)
            sleeps = state is not None and not state[1].startswith("R")
            slept_from_s = at_s if sleeps and not resting else None
        elif what == "sched_waking" and slept_from_s is not None:
            found.append((at_s - slept_from_s) * 1e3)
            slept_from_s = None
    return found
