# SPDX-License-Identifier: Apache-2.0
"""`make bench`: every benchmark in a guest of its own; results in out/bench/, one file each.

Benchmarks print JSON on stdout. They are no tests: nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "bench"
LOST = 125


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`cpus`: 1 where latencies are compared (emulated CPUs share one host thread)."""

    name: str
    script: str
    cpus: int
    timeout_s: int = 3600


BENCHMARKS = (
    Benchmark("toolcall", "tests/bench/toolcall.py", 1),
    Benchmark("boundary", "tests/bench/boundary.py", 1),
    Benchmark("reaction", "tests/bench/reaction.py", 1),
    Benchmark("overhead", "tests/bench/overhead.py", 1),
    Benchmark("roundtrip", "tests/bench/roundtrip.py", 1),
    Benchmark("recorder", "tests/bench/recorder.py", 1),
    Benchmark("takeback", "tests/bench/takeback.py", 1),
    Benchmark("cpu_shares", "tests/bench/cpu_shares.py", 2),
    Benchmark("cpu_quota", "tests/bench/cpu_quota.py", 2, timeout_s=7200),
    Benchmark("cpu_wakeup", "tests/bench/cpu_wakeup.py", 1),
    Benchmark("cpu_many", "tests/bench/cpu_many.py", 1),
    Benchmark("cpu_throughput", "tests/bench/cpu_throughput.py", 1),
    Benchmark("gate", "tests/bench/gate.py", 1),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks in a guest.")
    parser.add_argument("--kernel", default="newest")
    parser.add_argument("only", nargs="*", help="names of benchmarks; default: all")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    worst = 0
    for benchmark in BENCHMARKS:
        if options.only and benchmark.name not in options.only:
            continue
        worst = max(worst, run(benchmark, options.kernel))
    return worst


def run(benchmark: Benchmark, kernel: str) -> int:
    command = [
        str(ROOT / "sandboxes/guest/run"), "--kernel", kernel, "--cpus", str(benchmark.cpus),
        "--timeout", str(benchmark.timeout_s), "--", "python3", f"/src/{benchmark.script}",
    ]  # fmt: skip
    target = OUT / f"{benchmark.name}-{kernel}.json"
    print(f"== {benchmark.name} on {kernel}", flush=True)
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode != LOST:
            break
    print(done.stdout, flush=True)
    if done.returncode == 0:
        target.write_text(done.stdout, encoding="utf-8")
        print(f"== written to {target.relative_to(ROOT)}", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
