# SPDX-License-Identifier: Apache-2.0
"""What a tool call costs: shim and SDK beside a bare spawn, the same leaf life in C, a bare
mkdir + write + rmdir, and a shell wrapper that does what the paper's does. `round_trips` is
what a caller in C waits for the daemon: connecting, begin and end with their answers.

Runs inside a guest (or a host like it), interleaved, and prints one JSON object: p50 and
p95 in ms, ratios, the split of the shim's path, the highest sustained rate with its
CPU-ms per call, and the daemon with 200 idle sessions. Times of an emulated kernel mean
nothing by themselves; the ratios do.

The command is a static program that does nothing, so that its own start counts for little.

    python toolcall.py [--calls 200] [--seconds 10] [--workers 4] [--sessions 200]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

from harness import CGROUPFS, PrivateDaemon, enter_cgroup  # noqa: E402

from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.programs import find_program  # noqa: E402

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CONTROLLERS = "+memory +cpu +pids +io"


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch, PrivateDaemon() as daemon:
        daemon.start()
        daemon.client.create_session("bench")
        plain = plain_cgroup()
        # As an agent does: from inside of its session.
        enter_cgroup(daemon.root / "bench" / "agent")
        try:
            result = measure(options, daemon, plain, Path(scratch))
        finally:
            enter_cgroup(CGROUPFS)
            plain.rmdir()
    print(json.dumps(result, indent=1))


def measure(
    options: argparse.Namespace, daemon: PrivateDaemon, plain: Path, scratch: Path
) -> dict[str, Any]:
    nothing = compile_nothing(scratch)
    leaf_life, round_trips = (str(compiled(scratch, name)) for name in ("leaf_life", "round_trips"))
    variants = {
        "spawn": spawner([nothing]),
        "paper_wrapper": spawner(
            ["bash", str(HERE / "paper_wrapper.sh"), str(plain), str(scratch / "log"), nothing]
        ),
        "shim": spawner([str(find_program("agentcgroup-run")), "--", nothing], daemon),
        "shim_unmanaged": spawner(
            [str(find_program("agentcgroup-run")), "--hold-fd", "0", "--", nothing]
        ),
        "sdk": sdk_call(daemon, nothing),
        "round_trips": from_c([round_trips, str(daemon.socket), "3"]),
        "leaf_life_c": from_c([leaf_life, "life", str(plain), "3"]),
        "mkdir_write_rmdir_c": from_c([leaf_life, "bare", str(plain), "3"]),
    }
    # Before the daemon has seen a call: what it holds when nothing happened yet.
    rss_before = rss_bytes(daemon)
    times_ms = interleaved(variants, options.calls)
    stats = {name: quantiles(values) for name, values in times_ms.items()}
    whole = stats["shim"]["p50_ms"] - stats["shim_unmanaged"]["p50_ms"]
    return {
        "calls": options.calls,
        "times": stats,
        "ratios_p50": {
            "shim / paper_wrapper": ratio(stats, "shim", "paper_wrapper"),
            "shim / spawn": ratio(stats, "shim", "spawn"),
            "sdk / paper_wrapper": ratio(stats, "sdk", "paper_wrapper"),
            "round_trips / leaf_life_c": ratio(stats, "round_trips", "leaf_life_c"),
            "(shim - shim_unmanaged) / leaf_life_c": whole / stats["leaf_life_c"]["p50_ms"],
            "leaf_life_c / mkdir_write_rmdir_c": ratio(stats, "leaf_life_c", "mkdir_write_rmdir_c"),
        },
        "ratios_p95": {
            "shim / paper_wrapper": stats["shim"]["p95_ms"] / stats["paper_wrapper"]["p95_ms"],
        },
        "split_p50_ms": {
            "shim: exec of itself and of the command": stats["shim_unmanaged"]["p50_ms"],
            "shim: fork, hold, wait": whole - stats["round_trips"]["p50_ms"],
            "connection and round trips": stats["round_trips"]["p50_ms"],
            "of which a leaf's life, had it been in C": stats["leaf_life_c"]["p50_ms"],
        },
        "sustained": sustained(options, daemon, nothing),
        "idle": idle(options, daemon, rss_before),
    }


def interleaved(variants: dict[str, Callable[[], float]], calls: int) -> dict[str, list[float]]:
    """Every variant once a round, so that a drift of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(-5, calls):
        for name, call in variants.items():
            took_ms = call()
            if round_number >= 0:
                times[name].append(took_ms)
    return times


def timed(call: Callable[[], None]) -> Callable[[], float]:
    """The call's wall time in ms."""

    def measured() -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e3

    return measured


def sustained(options: argparse.Namespace, daemon: PrivateDaemon, nothing: str) -> dict[str, Any]:
    """`workers` loops of shim calls: calls a second, and CPU-ms of the daemon for each."""
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
    command = [str(find_program("agentcgroup-run")), "--", nothing]
    counts = [0] * options.workers
    stop = threading.Event()

    def loop(number: int) -> None:
        while not stop.is_set():
            subprocess.run(command, env=env, check=True)
            counts[number] += 1

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(options.workers)]
    before_s, started = cpu_s(daemon), time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(options.seconds)
    stop.set()
    for thread in threads:
        thread.join()
    took_s, used_s, total = time.monotonic() - started, cpu_s(daemon) - before_s, sum(counts)
    return {
        "workers": options.workers,
        "calls_per_s": total / took_s,
        "daemon_cpu_ms_per_call": used_s * 1e3 / max(1, total),
    }


def idle(options: argparse.Namespace, daemon: PrivateDaemon, rss_before: int) -> dict[str, Any]:
    for number in range(options.sessions):
        daemon.client.create_session(f"idle-{number}")
    time.sleep(1)
    before_s = cpu_s(daemon)
    time.sleep(options.seconds)
    used_s = cpu_s(daemon) - before_s
    return {
        "sessions": options.sessions,
        "rss_mib": rss_bytes(daemon) / 2**20,
        "rss_mib_fresh": rss_before / 2**20,
        "cpu_pct_of_a_core": 100 * used_s / options.seconds,
    }


def spawner(argv: list[str], daemon: PrivateDaemon | None = None) -> Callable[[], float]:
    """fork + exec + wait through posix_spawn: little of our own on top."""
    env = dict(os.environ)
    if daemon is not None:
        env["AGENTCGROUP_SOCKET"] = str(daemon.socket)
    path = argv[0] if "/" in argv[0] else f"/usr/bin/{argv[0]}"

    def call() -> None:
        reader, writer = os.pipe()
        os.write(writer, b"x")
        actions = [(os.POSIX_SPAWN_DUP2, reader, 0)]
        pid = os.posix_spawn(path, argv, env, file_actions=actions)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)

    return timed(call)


def sdk_call(daemon: PrivateDaemon, command: str) -> Callable[[], float]:
    client = Client(str(daemon.socket), require=True)

    def call() -> None:
        with client.tool_call() as tool:
            tool.run([command])

    return timed(call)


def compiled(scratch: Path, name: str) -> Path:
    program, source = scratch / name, HERE / "c" / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    return program


def compile_nothing(scratch: Path) -> str:
    source, program = scratch / "nothing.c", scratch / "nothing"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    return str(program)


def plain_cgroup() -> Path:
    """Where the baselines work: controllers on, no daemon."""
    (CGROUPFS / "cgroup.subtree_control").write_text(CONTROLLERS)
    directory = CGROUPFS / f"bench-{os.getpid()}"
    directory.mkdir()
    (directory / "cgroup.subtree_control").write_text(CONTROLLERS)
    return directory


def from_c(command: list[str]) -> Callable[[], float]:
    """Median of three in ms, as the program timed them: its own start is not in it."""

    def call() -> float:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)["total"]["p50_ns"]) / 1e6

    return call


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50_ms": ordered[len(ordered) // 2],
        "p95_ms": ordered[int(len(ordered) * 0.95)],
    }


def ratio(stats: dict[str, dict[str, float]], over: str, under: str) -> float:
    return stats[over]["p50_ms"] / stats[under]["p50_ms"]


def cpu_s(daemon: PrivateDaemon) -> float:
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(daemon: PrivateDaemon) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return next(int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("VmRSS"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost of a tool call.")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
