# SPDX-License-Identifier: Apache-2.0
"""From pressure to effect: how long a call that met its line stands still.

Runs inside a guest with BPF (or a host like it). A process rests, then grows through
memory.high. Pressure is the kernel's own time of the first `high` event; effect is when the
process is 4 MiB beyond the line, which it is not until somebody raised the line and woke it.
Who raises it, interleaved, in one run:

    events     the daemon, with BPF events
    files      the daemon without BPF: told of memory.events, PSI beside it
    psi        a bare PSI trigger (50 ms of stall in 500 ms) and one write
    poller     a look at memory.events once a second and one write

    python reaction.py [--rounds 30]

Prints one JSON object: p50 and p95 in ms and how often the process was never stopped because
its line moved ahead of it; ratios to the poller.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

from harness import CGROUPFS, PrivateDaemon  # noqa: E402

from agentcgroup.bpf.kernel_events import KernelEvents  # noqa: E402
from agentcgroup.cgroupfs.handle import Cgroup  # noqa: E402
from agentcgroup.cgroupfs.watch import psi_trigger  # noqa: E402
from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.enforce.files import wake  # noqa: E402
from agentcgroup.replay.process import start_in  # noqa: E402
from agentcgroup.types.events import MemoryEvent, MemoryKind  # noqa: E402
from agentcgroup.types.intents import Intent  # noqa: E402

MIB = 1 << 20
LINE_BYTES = 32 * MIB
BEYOND_BYTES = 4 * MIB
POLL_S = 1.0
PATIENCE_S = 30.0

# Rests until told, then writes pages and notes when it was beyond the line by its own memory.
HOG = """
import mmap, sys, time
size, step = int(sys.argv[1]), 1 << 18
held = mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own = open("/proc/self/cgroup").read().strip().removeprefix("0::")
base = int(open(f"/sys/fs/cgroup{own}/memory.current").read())
print("ready", flush=True)
sys.stdin.readline()
for at in range(0, size - base, step):
    for page in range(at, at + step, 4096):
        held[page] = 1
print(time.monotonic_ns(), flush=True)
sys.stdin.readline()
"""


class Watcher:
    """The kernel's own times of `high` events below one cgroup."""

    def __init__(self, root: Path) -> None:
        level = len(root.relative_to(CGROUPFS).parts)
        self._events = KernelEvents.open(
            root.stat().st_ino, level, gap_ns=1_000_000, only=frozenset({"memory"})
        )

    def first_high_ns(self, cgroup_id: int, after_ns: int) -> int | None:
        found = [
            event.t_ns
            for event in self._events.read()
            if isinstance(event, MemoryEvent)
            and event.cgroup_id == cgroup_id
            and event.kind is MemoryKind.HIGH
            and event.t_ns >= after_ns
        ]
        return min(found, default=None)


class Hog:
    def __init__(self, process: subprocess.Popen[bytes], leaf: Path) -> None:
        self._process = process
        self.leaf = leaf
        assert process.stdout is not None and process.stdin is not None
        self._out, self._in = process.stdout, process.stdin
        assert self._out.readline() == b"ready\n"

    def grow(self) -> int:
        """Returns when it was beyond the line, in monotonic ns."""
        self._in.write(b"\n")
        self._in.flush()
        return int(self._out.readline())

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.write(b"\n")
            self._in.close()
        self._process.wait()
        self._out.close()


def main() -> None:
    options = arguments()
    with contextlib.ExitStack() as stack:
        places: dict[str, Callable[[], float | None]] = {}
        for name, layers in (("events", "files,events"), ("files", "files")):
            daemon = stack.enter_context(PrivateDaemon(daemon={"memory_layers": layers}))
            daemon.start()
            places[name] = by_daemon(daemon)
        bare = stack.enter_context(bare_root())
        watcher = Watcher(bare)
        places["psi"] = by_hand(bare, watcher, until_psi)
        places["poller"] = by_hand(bare, watcher, until_polled)
        times = measure(places, options.rounds)
    print(json.dumps(summary(times), indent=1))


def measure(
    places: dict[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float | None]]:
    times: dict[str, list[float | None]] = {name: [] for name in places}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(sorted(places), len(places)):
            # So that the poller is met at any time of its second.
            time.sleep(draw.uniform(0.3, 1.3))
            times[name].append(places[name]())
    return times


def by_daemon(daemon: PrivateDaemon) -> Callable[[], float | None]:
    daemon.client.create_session("bench")
    client = Client(str(daemon.socket), require=True)
    watcher = Watcher(daemon.root)
    intent = Intent(memory=LINE_BYTES, memory_max=16 * LINE_BYTES)

    def once() -> float | None:
        with client.tool_call(intent, session="bench") as call:
            process = call.popen(hog_argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            leaf = leaf_of(process.pid)
            return reaction_ms(Hog(process, leaf), watcher)

    return once


def by_hand(
    root: Path, watcher: Watcher, until_pressure: Callable[[Cgroup, threading.Event], None]
) -> Callable[[], float | None]:
    def once() -> float | None:
        leaf = root / "leaf"
        leaf.mkdir()
        cgroup = Cgroup.open(str(leaf))
        cgroup.write("memory.high", str(LINE_BYTES))
        over = threading.Event()

        def react() -> None:
            until_pressure(cgroup, over)
            cgroup.write("memory.high", "max")
            wake(cgroup)

        process = start_in(cgroup.move, hog_argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        hog = Hog(process, leaf)
        reactor = threading.Thread(target=react)
        reactor.start()
        try:
            return reaction_ms(hog, watcher)
        finally:
            over.set()
            reactor.join()
            cgroup.close()
            leaf.rmdir()

    return once


def until_psi(cgroup: Cgroup, over: threading.Event) -> None:
    trigger = psi_trigger(cgroup, "some", 50_000, 500_000)
    try:
        poll = select.poll()
        poll.register(trigger, select.POLLPRI)
        while not over.is_set() and not poll.poll(100):
            pass
    finally:
        os.close(trigger)


def until_polled(cgroup: Cgroup, over: threading.Event) -> None:
    while not over.wait(POLL_S):
        if "high 0\n" not in cgroup.read("memory.events.local"):
            return


def reaction_ms(hog: Hog, watcher: Watcher) -> float | None:
    """None: it never met its line."""
    cgroup_id, begun_ns = hog.leaf.stat().st_ino, time.monotonic_ns()
    try:
        beyond_ns = hog.grow()
        met_ns = watcher.first_high_ns(cgroup_id, begun_ns)
        return None if met_ns is None else (beyond_ns - met_ns) / 1e6
    finally:
        hog.end()


def hog_argv() -> list[str]:
    return [sys.executable, "-I", "-S", "-c", HOG, str(LINE_BYTES + BEYOND_BYTES)]


def leaf_of(pid: int) -> Path:
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")
    return CGROUPFS / path


@contextlib.contextmanager
def bare_root() -> Iterator[Path]:
    (CGROUPFS / "cgroup.subtree_control").write_text("+memory")
    root = CGROUPFS / f"bench-{os.getpid()}"
    root.mkdir()
    (root / "cgroup.subtree_control").write_text("+memory")
    try:
        yield root
    finally:
        root.rmdir()


def summary(times: dict[str, list[float | None]]) -> dict[str, Any]:
    stats = {name: quantiles(values) for name, values in times.items()}
    slow = stats["poller"]
    return {
        "reaction": stats,
        "poller_over": {
            name: {
                q: slow[q] / row[q] if row[q] and slow[q] else None for q in ("p50_ms", "p95_ms")
            }
            for name, row in stats.items()
            if name != "poller"
        },
    }


def quantiles(values: list[float | None]) -> dict[str, Any]:
    met = sorted(value for value in values if value is not None)
    return {
        "rounds": len(values),
        "never_stopped": len(values) - len(met),
        "p50_ms": met[len(met) // 2] if met else None,
        "p95_ms": met[int(len(met) * 0.95)] if met else None,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From pressure to effect.")
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
