# SPDX-License-Identifier: Apache-2.0
"""Grants that move: what taking memory back costs the event loop, and how soon a call that
sleeps at its line goes on when the line is raised.

Runs inside a guest (or a host like it) and prints one JSON object.

    taking_back   A call of low priority fills its grant with page cache, one of high priority
                  needs that memory, again and again, while a client asks the daemon for its
                  version. `tight`: the memory has to be taken back, which reclaims inside
                  write(). `roomy`: the same calls where there is room for both. The daemon's
                  threads and the client run before everybody else (SCHED_RR): what is measured
                  is whether the loop was held up, not whether the CPU was somebody's.
                  `loop_slept`: from the kernel's trace, how long the loop's thread slept
                  anywhere but in epoll_wait.
    waking        A process sleeps because it met its line (memory.high). How long from the
                  write of a higher line to its next page: with the daemon's way (`woken`) and
                  with the write alone (`raised`), interleaved.

    python takeback.py [--rounds 10] [--wakes 20]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import CGROUPFS, PrivateDaemon, read_value  # noqa: E402
from loop_sleeps import LoopSleeps  # noqa: E402
from reaction import bare_root  # noqa: E402

from agentcgroup.cgroupfs.handle import Cgroup  # noqa: E402
from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.enforce import files as enforce  # noqa: E402
from agentcgroup.replay.process import start_in  # noqa: E402
from agentcgroup.types.intents import Intent  # noqa: E402

MIB = 1 << 20
BUDGETS_BYTES = {"tight": 400 * MIB, "roomy": 900 * MIB}
FILE_MIB = 300
HIGH_MIB = 250
# An answer costs CPU that the calls need: not so often that they starve.
ASK_EVERY_S = 0.05
REAL_TIME_PRIORITY = 10
TURN_MS = 1
QUANTILES = ("p50_ms", "p99_ms", "max_ms")

GROW = "import sys; held = bytearray(int(sys.argv[1]) << 20)"
# Files in a tmpfs are no page cache.
ON_DISK = "/var/tmp"

LINE_BYTES = 24 * MIB
RAISE_BYTES = 16 * MIB
ASLEEP_S = 0.2
PATIENCE_S = 30.0
# Touches pages for ever and tells when, every 64 KiB.
TOUCH = """
import mmap, os, time
held = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, 1 << 30, 4096):
    held[page] = 1
    if page % 65536 == 0:
        os.write(1, b"%d\\n" % time.monotonic_ns())
"""


# In a process of its own: no lock of the benchmark's holds it up.
ASK = """
import json, select, sys, time
from agentcgroup.client.client import Client
client, took_ms = Client(sys.argv[1], require=True), []
client.version()  # the first one connects
print("asking", flush=True)
while not select.select([sys.stdin], [], [], float(sys.argv[2]))[0]:
    begin = time.perf_counter()
    client.version()
    took_ms.append((time.perf_counter() - begin) * 1e3)
print(json.dumps(took_ms))
"""


class Asker:
    """Asks for the version until told to stop."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        argv = [sys.executable, "-c", ASK, str(daemon.socket), str(ASK_EVERY_S)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        before_everybody(self._process.pid)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asking\n"

    def stop(self) -> list[float]:
        """Round trips, in ms."""
        told, _ = self._process.communicate("")
        return [float(value) for value in json.loads(told)]


def main() -> None:
    options = arguments()
    found = {"taking_back": taking_back(options.rounds), "waking": waking(options.wakes)}
    print(json.dumps(found, indent=1))


# --- taking back


def taking_back(rounds: int) -> dict[str, Any]:
    took_ms: dict[str, list[float]] = {row: [] for row in BUDGETS_BYTES}
    lost_mib: dict[str, list[float]] = {row: [] for row in BUDGETS_BYTES}
    slept_ms: dict[str, list[float]] = {row: [] for row in BUDGETS_BYTES}
    draw = random.Random(0)
    Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
    with tempfile.NamedTemporaryFile(dir=ON_DISK) as file:
        subprocess.run(["head", "-c", f"{FILE_MIB}M", "/dev/zero"], stdout=file, check=True)
        os.fsync(file.fileno())
        for number in range(rounds + 1):
            for row in draw.sample(sorted(BUDGETS_BYTES), len(BUDGETS_BYTES)):
                with PrivateDaemon(session={"memory_reserve": "1M"}) as daemon:
                    start(daemon, BUDGETS_BYTES[row])
                    asker = Asker(daemon)
                    assert daemon.process is not None
                    with LoopSleeps(daemon.process.pid) as loop:
                        lost_bytes = two_calls(daemon, Path(file.name))
                    answered_ms = asker.stop()
                if number:  # the first round reads everybody's code from the disk
                    lost_mib[row].append(lost_bytes / MIB)
                    took_ms[row] += answered_ms
                    slept_ms[row] += loop.found_ms
    rows = {row: answers(values) for row, values in took_ms.items()}
    return {
        "rounds": rounds,
        "lost_mib": lost_mib,
        "answers": rows,
        "loop_slept": {
            row: {"count": len(values), "max_ms": max(values, default=0.0)}
            for row, values in slept_ms.items()
        },
        "tight_over_roomy": {q: rows["tight"][q] / rows["roomy"][q] for q in QUANTILES},
        "tight_minus_roomy": {q: rows["tight"][q] - rows["roomy"][q] for q in QUANTILES},
    }


def start(daemon: PrivateDaemon, budget_bytes: int) -> None:
    daemon.root.mkdir()
    (daemon.root / "memory.max").write_text(str(budget_bytes))
    daemon.start()
    assert daemon.process is not None
    before_everybody(daemon.process.pid)
    daemon.client.create_session("high", priority="high")
    daemon.client.create_session("low", priority="low")


def before_everybody(process_id: int) -> None:
    """Its other threads, too: one that has the interpreter's lock and no CPU would hold up the
    loop, which is no matter of taking back. They take turns, each TURN_MS at most."""
    Path("/proc/sys/kernel/sched_rr_timeslice_ms").write_text(str(TURN_MS))
    os.sched_setscheduler(process_id, os.SCHED_RR, os.sched_param(REAL_TIME_PRIORITY))


def two_calls(daemon: PrivateDaemon, file: Path) -> int:
    """Bytes of page cache that the call of low priority lost meanwhile."""
    with file.open("rb") as cached:
        os.posix_fadvise(cached.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    client = Client(str(daemon.socket), require=True)
    with client.tool_call(Intent(memory=FILE_MIB * MIB), session="low") as low:
        reader = low.popen(["sh", "-c", f"cat {file} > /dev/null; exec sleep 1000"])
        leaf = CGROUPFS / Path(f"/proc/{reader.pid}/cgroup").read_text().strip()[len("0::/") :]
        before = at_most = 0
        while at_most < FILE_MIB * MIB // 2 or at_most > before:
            before = at_most
            time.sleep(0.3)
            at_most = int(read_value(leaf, "memory.current"))
        with client.tool_call(Intent(memory=HIGH_MIB * MIB), session="high") as high:
            high.run([sys.executable, "-I", "-S", "-c", GROW, str(HIGH_MIB - 20)])
        left = int(read_value(leaf, "memory.current"))
        reader.kill()
        reader.wait()
    return at_most - left


def answers(took_ms: list[float]) -> dict[str, float]:
    ordered = sorted(took_ms)
    return {
        "count": len(ordered),
        "p50_ms": statistics.median(ordered),
        "p99_ms": ordered[int(0.99 * len(ordered))],
        "max_ms": ordered[-1],
    }


# --- waking


def waking(wakes: int) -> dict[str, Any]:
    took_ms: dict[str, list[float]] = {"woken": [], "raised": []}
    draw = random.Random(0)
    with bare_root() as root:
        for _ in range(wakes):
            for row in draw.sample(sorted(took_ms), len(took_ms)):
                took_ms[row].append(first_progress_ms(root, wake=row == "woken"))
    rows = {row: spread(values) for row, values in took_ms.items()}
    return {
        "wakes": wakes,
        "first_progress": rows,
        "raised_over_woken": {
            q: rows["raised"][q] / rows["woken"][q] for q in ("p50_ms", "max_ms")
        },
    }


def first_progress_ms(root: Path, *, wake: bool) -> float:
    """From before the write of a higher line to the next page that the sleeper touched."""
    leaf = root / "leaf"
    leaf.mkdir()
    cgroup = Cgroup.open(str(leaf))
    enforce.set_grant(cgroup, LINE_BYTES)
    argv = [sys.executable, "-I", "-S", "-c", TOUCH]
    sleeper = start_in(cgroup.move, argv, stdout=subprocess.PIPE)
    try:
        assert sleeper.stdout is not None
        pages = sleeper.stdout.fileno()
        while told(pages, ASLEEP_S):
            pass
        raised_ns = time.monotonic_ns()
        enforce.set_grant(cgroup, LINE_BYTES + RAISE_BYTES)
        if wake:
            enforce.wake(cgroup)
        line = told(pages, PATIENCE_S).split(b"\n")[0]
        return (int(line) - raised_ns) / 1e6
    finally:
        cgroup.kill()
        sleeper.communicate()
        cgroup.close()
        leaf.rmdir()


def told(pages: int, within_s: float) -> bytes:
    """What it wrote; empty when it wrote nothing `within_s`."""
    return os.read(pages, 65536) if select.select([pages], [], [], within_s)[0] else b""


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50_ms": statistics.median(ordered),
        "p95_ms": ordered[int(0.95 * len(ordered))],
        "max_ms": ordered[-1],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What it costs to move grants.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--wakes", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
