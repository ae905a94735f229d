# SPDX-License-Identifier: Apache-2.0
"""What the heart of the daemon costs a call at a hundred calls a second: policy, the decision
log and the writes it decides on, driven by recorded calls on the in-memory tree.

Runs anywhere: an emulated guest can't make so many calls. Beside the sessions that make the
calls there are 10, 100 and 1,000 idle ones; and few or many make the same calls. Left out:
sockets, identity, the kernel's own work (toolcall.py and overhead.py have those, at the rate
that a guest manages). Time is the calls' own, nobody waits for it: what is counted is CPU time
from an input to its last action, not that of the play.

    python rate.py [--calls 2000] [--per-s 100] [--idle 10,100,1000] [--busy 10,300] [--rounds 5]

Prints one JSON object: CPU-ms a call, inputs a call, and growth from few to many sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import FakeClock
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.records import CallRecord, ProcessRef, SessionRecord
from agentcgroup.enforce import files as enforce
from agentcgroup.policy.pacing import next_look_at_ns, next_look_ns
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.model import CallSpan
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.types.outcomes import Outcome, Reason
from agentcgroup.types.sessions import Mode, SessionSpec

TRACES = Path(__file__).resolve().parents[2] / "traces"
HOST_BYTES = 256 << 30
RESERVE_BYTES = 64 << 20
BUSY = 50
FIRST_LOOK_NS = 50_000_000
LONGEST_S = 5.0


def main() -> None:
    asked = arguments()
    recorded = list(calls())
    cells = [(BUSY, idle) for idle in asked.idle] + [(busy, asked.idle[0]) for busy in asked.busy]
    rows: dict[tuple[int, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    draw = random.Random(0)
    for _ in range(asked.rounds):
        for cell in draw.sample(list(rows), len(rows)):
            rows[cell].append(asyncio.run(played(recorded, *cell, asked)))
    print(
        json.dumps(
            {
                "calls": asked.calls,
                "calls_per_s": asked.per_s,
                "rows": [
                    {"busy_sessions": busy, "idle_sessions": idle, **medians(runs)}
                    for (busy, idle), runs in rows.items()
                ],
                "growth": {
                    f"{asked.idle[0]} to {asked.idle[-1]} idle": growth(
                        rows[BUSY, asked.idle[0]], rows[BUSY, asked.idle[-1]]
                    ),
                    f"{asked.busy[0]} to {asked.busy[-1]} busy": growth(
                        rows[asked.busy[0], asked.idle[0]], rows[asked.busy[-1], asked.idle[0]]
                    ),
                },
            },
            indent=1,
        )
    )


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def growth(few: list[dict[str, float]], many: list[dict[str, float]]) -> dict[str, float]:
    """Of CPU time a call, over the rounds."""
    pairs = zip(many, few, strict=True)
    ratios = [a["cpu_ms_per_call"] / b["cpu_ms_per_call"] for a, b in pairs]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def calls() -> Iterator[CallSpan]:
    for path in sorted(TRACES.glob("*.jsonl.gz")):
        yield from (call for call in load_session_trace(path).calls if call.samples)


async def played(
    recorded: list[CallSpan], busy: int, idle: int, asked: argparse.Namespace
) -> dict[str, float]:
    clock = FakeClock(1)
    core = Core(HOST_BYTES, PolicyConfig(), clock, Decisions())
    try:
        root = FakeCgroup.delegated(FakeKernel())
        root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
        for number in range(idle):
            add_session(core, root, f"idle-{number}")
        sessions = [add_session(core, root, f"busy-{number}") for number in range(busy)]
        return Play(core, clock, sessions).run(recorded, asked.calls, asked.per_s)
    finally:
        core.close()


def add_session(core: Core, root: FakeCgroup, name: str) -> SessionRecord:
    cgroup = root.create(name)
    cgroup.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    spec = SessionSpec(name=name)
    record = SessionRecord(
        name, spec, Mode.ENFORCE, cgroup, cgroup.create("agent"), cgroup.create("tools"), 1.0
    )
    record.tools.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    core.sessions[name] = record
    now = core.clock.now_ns()
    core.feed(i.SessionBegin(now, name, Priority.NORMAL, None, RESERVE_BYTES, Mode.ENFORCE))
    return record


class Play:
    """Events in the order of their time; each is done at once, and the clock follows."""

    def __init__(self, core: Core, clock: FakeClock, sessions: list[SessionRecord]) -> None:
        self._core, self._clock, self._sessions = core, clock, sessions
        self._due: list[tuple[int, int, str, int, int]] = []
        self._begun: dict[int, tuple[CallRecord, CallSpan]] = {}
        self._inputs = 0
        self._cpu_ns = 0

    def run(self, recorded: list[CallSpan], count: int, per_s: float) -> dict[str, float]:
        draw = random.Random(count)
        spans = [draw.choice(recorded) for _ in range(count)]
        for number in range(count):
            self._at(1 + int(number / per_s * 1e9), "begin", number)
        while self._due:
            at_ns, _, what, number, interval_ns = heapq.heappop(self._due)
            self._clock.advance_ns(max(0, at_ns - self._clock.now_ns()))
            if what == "begin":
                self._begin(number, spans[number], at_ns)
            elif what == "look":
                self._look(number, at_ns, interval_ns)
            else:
                self._end(number)
        return {
            "cpu_ms_per_call": self._cpu_ns / 1e6 / count,
            "inputs_per_call": self._inputs / count,
            "cores_at_this_rate": self._cpu_ns / 1e9 / count * per_s,
        }

    def _at(self, at_ns: int, what: str, number: int, interval_ns: int = 0) -> None:
        heapq.heappush(self._due, (at_ns, len(self._due), what, number, interval_ns))

    def _feed(self, what: i.Input) -> None:
        self._inputs += 1
        begin_ns = time.thread_time_ns()
        self._core.feed(what)
        self._cpu_ns += time.thread_time_ns() - begin_ns

    def _begin(self, number: int, span: CallSpan, at_ns: int) -> None:
        session = self._sessions[number % len(self._sessions)]
        name = f"c{number}"
        record = CallRecord(
            name, session.name, key=name, intent=Intent(command=span.command),
            owner=ProcessRef(1, 1), child=None, begun_ns=at_ns, began_epoch_s=1.0,
        )  # fmt: skip
        session.calls[name] = self._core.calls[name] = record
        self._feed(i.CallBegin(at_ns, session.name, name, record.intent))
        record.leaf = session.tools.create(name)
        enforce.apply_limits(record.leaf, record.limits)
        record.save()
        self._begun[number] = (record, span)
        self._at(at_ns + FIRST_LOOK_NS, "look", number, FIRST_LOOK_NS)
        self._at(at_ns + int(min(span.duration_s, LONGEST_S) * 1e9), "end", number)

    def _look(self, number: int, at_ns: int, interval_ns: int) -> None:
        if number not in self._begun:
            return
        record, span = self._begun[number]
        age_s = (at_ns - record.begun_ns) / 1e9
        size = max((held for when_s, held in span.samples if when_s <= age_s), default=0)
        gained, elapsed = size - record.last_current_bytes, at_ns - record.looked_ns
        record.last_current_bytes, record.looked_ns = size, at_ns
        line = record.limits.memory_high_bytes
        if line is not None and size > line:
            self._feed(i.MemoryHigh(at_ns, record.name, line))
        self._feed(i.CallSample(at_ns, record.name, size))
        left = None if line is None else line - size
        interval_ns = next_look_ns(gained, elapsed, left, interval_ns)
        self._at(next_look_at_ns(at_ns, interval_ns), "look", number, interval_ns)

    def _end(self, number: int) -> None:
        record, span = self._begun.pop(number)
        session = self._core.sessions[record.session]
        assert record.leaf is not None
        record.leaf.remove()
        record.leaf = None
        del session.calls[record.name], self._core.calls[record.name]
        outcome = Outcome(
            call=record.name, session=record.session, reason=Reason.COMPLETED,
            peak_memory_bytes=span.peak_bytes,
        )  # fmt: skip
        self._inputs += 1
        begin_ns = time.thread_time_ns()
        self._core.call_ended(record, outcome)
        self._cpu_ns += time.thread_time_ns() - begin_ns


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The heart of the daemon at a high rate.")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--per-s", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=numbers, default=[10, 100, 1000])
    parser.add_argument("--busy", type=numbers, default=[10, 300])
    return parser.parse_args()


if __name__ == "__main__":
    main()
