# SPDX-License-Identifier: Apache-2.0
"""What the heart of the daemon costs a call at a hundred calls a second: policy, the decision
log and the writes it decides on, driven by recorded calls on the in-memory tree.

Runs anywhere: an emulated guest can't make so many calls. Beside the calls there are 10, 100
and 1,000 idle sessions. Left out: sockets, identity, the kernel's own work (toolcall.py and
overhead.py have those, at the rate that a guest manages). Time is the calls' own, nobody waits
for it: what is counted is CPU time from an input to its last action, not that of the play.

    python rate.py [--calls 2000] [--per-s 100] [--sessions 10,100,1000] [--rounds 5]

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
from agentcgroup.policy.pacing import next_look_ns
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
BUSY_SESSIONS = 50
FIRST_LOOK_NS = 50_000_000
LONGEST_S = 5.0


def main() -> None:
    asked = arguments()
    recorded = list(calls())
    rows: dict[int, list[dict[str, float]]] = {idle: [] for idle in asked.sessions}
    draw = random.Random(0)
    for _ in range(asked.rounds):
        for idle in draw.sample(asked.sessions, len(asked.sessions)):
            rows[idle].append(asyncio.run(played(recorded, idle, asked)))
    told = {
        str(idle): {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for idle, runs in rows.items()
    }
    few, many = min(asked.sessions), max(asked.sessions)
    pairs = zip(rows[many], rows[few], strict=True)
    growth = [a["cpu_ms_per_call"] / b["cpu_ms_per_call"] for a, b in pairs]
    print(
        json.dumps(
            {
                "calls": asked.calls,
                "calls_per_s": asked.per_s,
                "idle_sessions": told,
                f"cpu_{many}_over_{few}_sessions": {
                    "median": statistics.median(growth), "low": min(growth), "high": max(growth),
                },
            },
            indent=1,
        )
    )  # fmt: skip


def calls() -> Iterator[CallSpan]:
    for path in sorted(TRACES.glob("*.jsonl.gz")):
        yield from (call for call in load_session_trace(path).calls if call.samples)


async def played(
    recorded: list[CallSpan], idle: int, asked: argparse.Namespace
) -> dict[str, float]:
    clock = FakeClock(1)
    core = Core(HOST_BYTES, PolicyConfig(), clock, Decisions())
    try:
        root = FakeCgroup.delegated(FakeKernel())
        root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
        for number in range(idle):
            add_session(core, root, f"idle-{number}")
        busy = [add_session(core, root, f"busy-{number}") for number in range(BUSY_SESSIONS)]
        return Play(core, clock, busy).run(recorded, asked.calls, asked.per_s)
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
        self._at(at_ns + interval_ns, "look", number, interval_ns)

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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The heart of the daemon at a high rate.")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--per-s", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--sessions", type=lambda text: [int(n) for n in text.split(",")], default=[10, 100, 1000]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
