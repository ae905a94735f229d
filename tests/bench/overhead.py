# SPDX-License-Identifier: Apache-2.0
"""What the daemon costs those who need nothing from it.

Runs inside a guest with BPF (or a host like it) and prints one JSON object.

    allocation  a tool call with plenty of room allocates: 10 MiB buffers, a ring of 20, then as
                many as it can for a while (the paper's micro benchmark). Rows, interleaved:
                the daemon with its BPF programs attached, and without them.
    sessions    CPU time of the daemon for a call, and its RSS, with more and more idle
                sessions beside it.

    python overhead.py [--rounds 10] [--seconds 3] [--sessions 10,100,1000] [--calls 40]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import PrivateDaemon  # noqa: E402
from toolcall import cpu_s, rss_bytes  # noqa: E402

from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.types.intents import Intent  # noqa: E402

ROWS = {"without_bpf": "files", "with_bpf": "files,events"}

ALLOCATE = """
import json, sys, time
seconds, size, ring = float(sys.argv[1]), 10 << 20, [None] * 20
def one(at):
    begin = time.perf_counter_ns()
    buffer = bytearray(size)
    for page in range(0, size, 4096):
        buffer[page] = 1
    ring[at % len(ring)] = buffer
    return time.perf_counter_ns() - begin
for at in range(20):
    one(at)
took = sorted(one(at) for at in range(60))
count, until = 0, time.monotonic() + seconds
while time.monotonic() < until:
    one(count)
    count += 1
print(json.dumps({"p50_ns": took[30], "p95_ns": took[57], "per_s": count / seconds}))
"""


def main() -> None:
    options = arguments()
    found = {"allocation": allocation(options), "sessions": sessions(options)}
    print(json.dumps(found, indent=1))


def allocation(options: argparse.Namespace) -> dict[str, Any]:
    measured: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    draw = random.Random(0)
    for _ in range(options.rounds):
        for row in draw.sample(sorted(ROWS), len(ROWS)):
            with PrivateDaemon(daemon={"memory_layers": ROWS[row]}) as daemon:
                daemon.start()
                measured[row].append(one_run(daemon, options.seconds))
    pairs = list(zip(measured["with_bpf"], measured["without_bpf"], strict=True))
    return {
        "runs": measured,
        "with_over_without": {
            figure: spread([a[figure] / b[figure] for a, b in pairs])
            for figure in ("p50_ns", "p95_ns", "per_s")
        },
    }


def one_run(daemon: PrivateDaemon, seconds: float) -> dict[str, float]:
    daemon.client.create_session("bench", priority="high")
    client = Client(str(daemon.socket), require=True)
    argv = [sys.executable, "-I", "-S", "-c", ALLOCATE, str(seconds)]
    with client.tool_call(Intent(memory=1 << 30), session="bench") as call:
        process = call.popen(argv, stdout=subprocess.PIPE)
        told, _ = process.communicate()
    return {name: float(value) for name, value in json.loads(told).items()}


def sessions(options: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    with PrivateDaemon() as daemon:
        daemon.start()
        daemon.client.create_session("busy")
        client = Client(str(daemon.socket), require=True)
        there = 0
        for wanted in options.sessions:
            for number in range(there, wanted):
                daemon.client.create_session(f"idle-{number}")
            there = wanted
            time.sleep(1)
            before_s, begin_s = cpu_s(daemon), time.monotonic()
            time.sleep(5)
            idle_s, idle_pct = cpu_s(daemon), 100 / (time.monotonic() - begin_s)
            for _ in range(options.calls):
                with client.tool_call(session="busy") as call:
                    call.run(["true"])
            rows.append(
                {
                    "idle_sessions": wanted,
                    "daemon_cpu_ms_per_call": (cpu_s(daemon) - idle_s) * 1e3 / options.calls,
                    "daemon_idle_cpu_pct": (idle_s - before_s) * idle_pct,
                    "rss_mib": rss_bytes(daemon) / 2**20,
                }
            )
    return rows


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the daemon costs without pressure.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument(
        "--sessions", type=lambda text: [int(n) for n in text.split(",")], default=[10, 100, 1000]
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
