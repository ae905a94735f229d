# SPDX-License-Identifier: Apache-2.0
"""Plays one session in its place, on its own thread, against the common start.

A real agent waits for its tools: when a call ends later than in the trace, everything
after it moves by as much. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..trace.jobs import CallJob, SessionJob
from ..trace.model import Sample
from ..trace.results import SessionResult, survived
from .places import CallEnd, Place
from .process import WorkerFiles, WorkerReport, tell_start

__all__ = ["SessionPlayer"]


@dataclass(slots=True)
class _Running:
    job: CallJob
    files: WorkerFiles
    thread: threading.Thread
    ends: list[CallEnd] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


class _Agent:
    """The process that holds the baseline; it is told each level and acknowledges it."""

    def __init__(self, process: subprocess.Popen[bytes], start_ns: int) -> None:
        self._process = process
        self.alive = True
        tell_start(process, start_ns)
        self.acknowledge()

    def acknowledge(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"\n":
            self.alive = False

    def level(self, size_bytes: int) -> None:
        if not self.alive:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"%d\n" % size_bytes)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.alive = False
            return
        self.acknowledge()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class SessionPlayer(threading.Thread):
    """`result` is complete once the thread has ended; `error` is what broke it."""

    def __init__(
        self, job: SessionJob, place: Place, *, speed: float, start_ns: int, folder: Path
    ) -> None:
        super().__init__(name=f"replay {job.name}", daemon=True)
        self.job = job
        self.place = place
        self.result = SessionResult(job.name, job.priority, job.trace.peak_bytes)
        self.result.calls = len(job.calls)
        self.error: BaseException | None = None
        self.layers: set[str] = set()
        self._speed = speed
        self._start_ns = start_ns
        self._folder = folder
        self._shift_ns = 0
        self._cancelled = threading.Event()
        self._ended: list[_Running] = []

    @property
    def expected_s(self) -> float:
        """How long it takes undisturbed."""
        return self.job.trace.duration_s / self._speed

    def cancel(self) -> None:
        """Start nothing more; the driver kills what runs."""
        self._cancelled.set()

    def run(self) -> None:
        try:
            waited_ms = self.place.enter()
            try:
                self._play(waited_ms)
            finally:
                self.place.leave()
        except BaseException as problem:
            self.error = problem
        finally:
            self.result.ended_s = self._since_start_s(time.monotonic_ns())

    def _play(self, waited_ms: float) -> None:
        self._shift_ns = max(0, time.monotonic_ns() - self._start_ns)
        if self._cancelled.is_set():  # while it waited for its share
            agent_report = None
        elif self.job.agent is None:
            running = self._begin(self.job.calls[0], 0)
            running.thread.join()
            self._ended.append(running)
            agent_report = None
        else:
            agent_report = self._play_calls(self.job.agent)
        self._account(agent_report, waited_ms)

    # --- tool granularity

    def _play_calls(self, levels: tuple[Sample, ...]) -> WorkerReport:
        files = WorkerFiles(self._folder, f"{self.job.name}.agent")
        argv = files.prepare(None, speed=self._speed, base_bytes=self.job.base_bytes, exact=True)
        agent = _Agent(self.place.agent(argv), self._start_ns)
        running: list[_Running] = []
        try:
            events: list[tuple[float, int, int]] = [
                (at_s, 0, index) for index, (at_s, _) in enumerate(levels)
            ]
            events += [(call.begin_s, 1, index) for index, call in enumerate(self.job.calls)]
            for at_s, is_call, index in sorted(events):
                running = self._finish(running, at_s)
                self._wait_until(at_s)
                if self._cancelled.is_set() or not agent.alive:
                    break
                if is_call:
                    running.append(self._begin(self.job.calls[index], index))
                else:
                    agent.level(levels[index][1])
            self._finish(running, None)
        finally:
            agent.close()
        report = files.collect()
        report.completed = report.completed and report.samples_done == len(levels)
        return report

    def _finish(self, running: list[_Running], at_s: float | None) -> list[_Running]:
        """Wait for the calls that have ended in the trace by `at_s` (None: for all)."""
        left: list[_Running] = []
        for call in running:
            if at_s is not None and call.job.end_s > at_s:
                left.append(call)
                continue
            call.thread.join()
            self._ended.append(call)
            # What ending a call takes besides lies between calls in the recording, too.
            for end in call.ends:
                self._shift_ns += max(0, end.ended_ns - self._due_ns(call.job.end_s))
        return left

    def _due_ns(self, at_s: float) -> int:
        return self._start_ns + self._shift_ns + int(at_s / self._speed * 1e9)

    def _wait_until(self, at_s: float) -> None:
        left_s = (self._due_ns(at_s) - time.monotonic_ns()) / 1e9
        if left_s > 0:
            self._cancelled.wait(left_s)

    # --- one call

    def _begin(self, job: CallJob, index: int) -> _Running:
        files = WorkerFiles(self._folder, f"{self.job.name}.{index}")
        due_ns = self._due_ns(job.begin_s)
        argv = files.prepare(
            job.samples, speed=self._speed, base_bytes=job.base_bytes,
            exact=self.job.agent is not None,
        )  # fmt: skip
        running = _Running(job, files, threading.Thread(daemon=True))

        def work() -> None:
            try:
                end = self.place.call(argv, job.intent, due_ns)
                if end.policy_kill:
                    self.result.kill_times_s.append(self._since_start_s(time.monotonic_ns()))
                running.ends.append(end)
            except BaseException as problem:
                running.errors.append(problem)

        running.thread = threading.Thread(target=work, name=self.name, daemon=True)
        running.thread.start()
        return running

    # --- the result

    def _account(self, agent: WorkerReport | None, waited_ms: float) -> None:
        result = self.result
        reached = agent is None or agent.completed
        peak = agent.peak_bytes if agent else 0
        latencies = list(agent.latencies_ms) if agent else []
        end_ns = agent.end_ns if agent else None
        ends = [end for running in self._ended for end in running.ends]
        for running in self._ended:
            report = running.files.collect()
            below = self._baseline(running.job.begin_s)
            peak = max(peak, below + report.peak_bytes)
            latencies += report.latencies_ms
            done = report.completed and report.samples_done == len(running.job.samples)
            result.calls_lost += not done
            if report.end_ns is not None:
                end_ns = max(end_ns or 0, report.end_ns)
        missing = len(self.job.calls) - len(self._ended)
        result.calls_lost += missing
        reached = reached and result.calls_lost == 0
        if reached and agent is not None:
            # Every process held its levels, so those of overlapping calls add up to the trace's.
            peak = max(peak, self.job.trace.peak_bytes)
        result.peak_memory_bytes = peak
        result.latencies_ms = latencies
        result.survived = survived(reached, peak, self.job.trace.peak_bytes)
        result.completion_s = self._since_start_s(end_ns) if reached and end_ns else None
        result.policy_kills = sum(end.policy_kill for end in ends)
        waits = _total([end.waited_ms for end in ends])
        result.waited_ms = None if waits is None else waits + waited_ms
        result.throttled_ms = _total([end.throttled_ms for end in ends])
        result.frozen_ms = _total([end.frozen_ms for end in ends])
        self.layers.update(layer for end in ends for layer in end.layers)
        self.error = next((error for r in self._ended for error in r.errors), None)

    def _baseline(self, at_s: float) -> int:
        """What the agent held when the call began."""
        before = [size for sample_s, size in self.job.agent or () if sample_s <= at_s]
        return before[-1] if before else 0

    def _since_start_s(self, at_ns: int) -> float:
        return max(0.0, (at_ns - self._start_ns) / 1e9)


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
