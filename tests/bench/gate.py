# SPDX-License-Identifier: Apache-2.0
"""The memory gate: how soon pressure on a call has an effect on one of a lower priority.

Runs inside a guest with sched_ext. From pressure to effect, in one run:

    gate      a high call reclaims, beside a busy low one, under our scheduler: from before it
              begins until the gate is closed and the low call does not run, by its own account
              (on one CPU it does not run while the high one does: the gate is what keeps it out)
    events    a call meets its line, the daemon raises it: reaction.py's row of that name

Prints one JSON object: p50 and p95 of both in ms, and events over gate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import PrivateDaemon, until  # noqa: E402
from reaction import by_daemon, leaf_of, quantiles  # noqa: E402
from sched_harness import maps_of, pinned  # noqa: E402

from agentcgroup.bpf.sched_maps import SchedulerMaps  # noqa: E402
from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.types.intents import Priority  # noqa: E402

# Notes when it last ran.
SPIN = """
import mmap, struct, sys, time
with open(sys.argv[1], "r+b") as file:
    seen = mmap.mmap(file.fileno(), 8)
while True:
    struct.pack_into("=q", seen, 0, time.monotonic_ns())
"""
# Longer than any gate was closed before.
CALM_S = (0.4, 1.0)
PARKED_WITHIN_S = 2.0
# Told to, gives page cache or swap back that it may not have: what counts is that it reclaims.
RECLAIM = """
import sys, time
own = open("/proc/self/cgroup").read().strip().removeprefix("0::")
reclaim = f"/sys/fs/cgroup{own}/memory.reclaim"
print("ready", flush=True)
for _ in sys.stdin:
    begun_ns = time.monotonic_ns()
    try:
        with open(reclaim, "w") as file:
            file.write("64K")
    except OSError:
        pass
    print(begun_ns, flush=True)
"""


def main() -> None:
    rounds = arguments().rounds
    found = {"gate": gate_ms(rounds), "events": events_ms(rounds)}
    stats = {name: quantiles(values) for name, values in found.items()}
    over = {
        q: stats["events"][q] / stats["gate"][q]
        for q in ("p50_ms", "p95_ms")
        if stats["events"][q] and stats["gate"][q]
    }
    print(json.dumps({"effect": stats, "events_over_gate": over, "raw_ms": found}, indent=1))


def calm() -> None:
    time.sleep(random.uniform(*CALM_S))


def events_ms(rounds: int) -> list[float | None]:
    with PrivateDaemon(daemon={"memory_layers": "files,events"}) as daemon:
        daemon.start()
        once = by_daemon(daemon)
        found = []
        for _ in range(rounds):
            calm()
            found.append(once())
        return found


def gate_ms(rounds: int) -> list[float | None]:
    with (
        PrivateDaemon(daemon={"cpu_layer": "sched_ext", "cpu_require": True}) as daemon,
        contextlib.ExitStack() as stack,
    ):
        daemon.start()
        client = Client(str(daemon.socket), require=True)
        low, high = (
            stack.enter_context(client.tool_call(session=session))
            for session in (new_session(daemon, "low"), new_session(daemon, "high"))
        )
        seen = daemon.base / "seen"
        seen.write_bytes(bytes(8))
        spinner = low.popen([sys.executable, "-I", "-S", "-c", SPIN, str(seen)])
        stack.callback(spinner.wait)
        stack.callback(spinner.kill)
        argv = [sys.executable, "-I", "-S", "-c", RECLAIM]
        reclaimer = high.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(reclaimer.communicate)
        assert reclaimer.stdin and reclaimer.stdout
        assert reclaimer.stdout.readline() == "ready\n"
        maps = stack.enter_context(maps_of(pinned()[0]))
        low_id = leaf_of(spinner.pid).stat().st_ino
        found: list[float | None] = []
        for _ in range(rounds):
            calm()
            print("now", file=reclaimer.stdin, flush=True)
            begun_ns = int(reclaimer.stdout.readline())
            closed_ns = parked_ns(maps, low_id, begun_ns)
            (ran_ns,) = struct.unpack("=q", seen.read_bytes())
            found.append((max(closed_ns, ran_ns) - begun_ns) / 1e6)
        return found


def new_session(daemon: PrivateDaemon, priority: str) -> str:
    return daemon.client.create_session(priority, priority=priority).name


def parked_ns(maps: SchedulerMaps, cgroup_id: int, after_ns: int) -> int:
    """When the gate was closed for the first time after that; returns once it has parked."""

    def look() -> bool:
        found = maps.figures(cgroup_id)
        return found is not None and found["parked_ns"] >= after_ns

    until(look, "the low call is parked", timeout_s=PARKED_WITHIN_S)
    return maps.gate_closed_ns(Priority.LOW)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From pressure to effect, with the gate.")
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
