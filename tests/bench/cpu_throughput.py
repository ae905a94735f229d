# SPDX-License-Identifier: Apache-2.0
"""What gets done in a time under sched_ext, over what gets done under EEVDF.

Runs inside a guest with sched_ext (or a host like it); ratios want one CPU, for two emulated ones
share a thread of the host. Everything runs as deep in cgroups as a tool call does. Every round
measures every workload under both schedulers:

    build         `make -j` of the shim (sandboxes/shim) with gcc, two jobs a CPU: fork, exec, CPU
    compress      zlib and xz over a fixed buffer, two processes a CPU
    switch-1      context switches: two processes that hand a byte to and fro through pipes
    switch-8      eight pairs of them

    python cpu_throughput.py [--rounds 5] [--seconds 5] [--only 'switch*'] [--json FILE] [--check]

Prints one JSON object: rates by scheduler, and medians of the rounds' ratios with bootstrap
intervals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cpu_common import (
    CPUS,
    HERE,
    Arena,
    bounded,
    finish,
    interleaved,
    options_parser,
    program,
    selected,
    spread,
)
from isolation import interval

SHIM = HERE.parents[1] / "sandboxes" / "shim"
LEAF = "session/tools/call"
JOBS = 2 * CPUS
BOUNDS = {"build": 0.98, "compress": 0.98, "switch-1": 0.95, "switch-8": 0.95}

# Starts its workers and tells how long they took together, without the start of Python itself.
COMPRESS = """
import lzma, os, random, sys, time
jobs, rounds = int(sys.argv[1]), int(sys.argv[2])
data = bytes(random.Random(0).choices(range(16), k=1 << 18))
began = time.perf_counter()
for _ in range(jobs):
    if os.fork() == 0:
        import zlib
        for _ in range(rounds):
            zlib.compress(data, 6)
            lzma.compress(data, preset=1)
        os._exit(0)
failed = sum(os.wait()[1] for _ in range(jobs))
print((time.perf_counter() - began) if not failed else "failed")
"""

Rate = Callable[[], float]


def main() -> int:
    options = arguments()
    with ExitStack() as stack:
        chosen = selected(stack.enter_context(workloads(options)), options.only)
        for per_s in chosen.values():
            per_s()  # reads compiler, libraries and sources from the disk
        runs = interleaved(
            options, lambda _daemon: {name: per_s() for name, per_s in chosen.items()}
        )
    rows = [row(name, runs) for name in chosen]
    return finish(options, rows)


@contextmanager
def workloads(options: argparse.Namespace) -> Iterator[dict[str, Rate]]:
    with tempfile.TemporaryDirectory() as scratch, program("ping_pong") as ping_pong:
        sources = Path(scratch) / "shim"
        shutil.copytree(SHIM, sources, ignore=shutil.ignore_patterns(".output"))
        yield {
            "build": lambda: builds_per_s(sources),
            "compress": lambda: compressions_per_s(options.compressions),
            "switch-1": lambda: round_trips_per_s(ping_pong, 1, options.seconds),
            "switch-8": lambda: round_trips_per_s(ping_pong, 8, options.seconds),
        }


def builds_per_s(sources: Path) -> float:
    shutil.rmtree(sources / ".output", ignore_errors=True)
    began_s = time.perf_counter()
    in_a_leaf(["make", "-s", f"-j{JOBS}", "-C", str(sources)])
    return 1 / (time.perf_counter() - began_s)


def compressions_per_s(rounds: int) -> float:
    argv = [sys.executable, "-I", "-S", "-c", COMPRESS, str(JOBS), str(rounds)]
    return JOBS * rounds / float(in_a_leaf(argv))


def round_trips_per_s(ping_pong: str, pairs: int, seconds: int) -> float:
    told = json.loads(in_a_leaf([ping_pong, str(pairs), str(seconds)]))
    return float(told["round_trips"] / told["took_ns"] * 1e9)


def in_a_leaf(argv: list[str]) -> str:
    """What the command printed. RuntimeError when it fails."""
    with Arena() as arena:
        leaf = arena.make(LEAF)
        (process,) = arena.start(leaf, argv, stdout=subprocess.PIPE, text=True)
        told, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
    return str(told)


def row(name: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {under: [run[name] for run in measured] for under, measured in runs.items()}
    found: dict[str, Any] = {
        "workload": name,
        "per_s": {under: spread(values) for under, values in rates.items()},
    }
    if set(rates) == {"eevdf", "sched_ext"}:
        pairs = zip(rates["sched_ext"], rates["eevdf"], strict=True)
        found["over_eevdf"] = interval([ours / theirs for ours, theirs in pairs])
        bounded(found, "over_eevdf", at_least=BOUNDS[name])
    return found


def arguments() -> argparse.Namespace:
    parser = options_parser("Throughput under sched_ext and EEVDF.")
    parser.add_argument("--seconds", type=int, default=5, help="of counting context switches")
    parser.add_argument("--compressions", type=int, default=4, help="of each process")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
