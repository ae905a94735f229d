# SPDX-License-Identifier: Apache-2.0
"""What the exec boundary costs: agents that start commands one after another, as fast as they go,
each in a cgroup that is adopted in place, as a container is.

Runs inside a guest (or a host like it) and prints one JSON object. Rows, interleaved:

    nothing    no daemon
    declared   every command by agentcgroup-run
    exec       the very commands of `nothing`, in sessions with the exec boundary
    wrapper    no daemon, every command by a shell script that does mkdir, echo, date and rmdir

Per row: p50 and p95 of a command's time in ms, commands a second of all agents together, and
CPU-ms per command of the daemon and of everything. The command is a static program that does
nothing.

    python boundary.py [--agents 20] [--seconds 10] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import CGROUPFS, PrivateDaemon, enter_cgroup, remove_tree  # noqa: E402
from toolcall import compiled, cpu_s  # noqa: E402

from agentcgroup.programs import find_program  # noqa: E402

COMMAND = "command"
MISSED = ("not_told", "not_stopped", "no_lease", "unplaced")
ROWS = ("nothing", "declared", "exec", "wrapper")
WRAPPER = """#!/bin/bash
mkdir "$1" && echo $$ >"$1/start" && date >/dev/null
"$2"; status=$?
rm "$1/start"; rmdir "$1"; exit $status
"""


def main() -> None:
    options = arguments()
    measured: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        callers = str(compiled(Path(scratch), "callers"))
        shutil.copy(callers, Path(scratch, COMMAND))
        script = Path(scratch, "wrapper.sh")
        script.write_text(WRAPPER)
        script.chmod(0o755)
        for number in range(options.rounds):
            for row in draw.sample(ROWS, len(ROWS)):
                measured[row].append(one_run(row, callers, Path(scratch), options))
            print(f"round {number + 1} of {options.rounds} is done", file=sys.stderr, flush=True)
    found = {
        "agents": options.agents,
        "rows": {row: summary(runs) for row, runs in measured.items()},
        "ratios": {
            f"{row}_over_{base}": ratios(measured[row], measured[base])
            for row, base in (("exec", "nothing"), ("declared", "nothing"), ("exec", "declared"),
                              ("declared", "wrapper"), ("exec", "wrapper"))
        },
    }  # fmt: skip
    print(json.dumps(found, indent=1))


def one_run(row: str, callers: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row's figures: commands' times in ns, CPU time of the daemon and of the machine."""
    with contextlib.ExitStack() as stack:
        daemon = None
        if row in ("declared", "exec"):
            daemon = stack.enter_context(PrivateDaemon())
            daemon.start()
        rooms = [stack.enter_context(room(number)) for number in range(options.agents)]
        for number, place in enumerate(rooms if daemon is not None else ()):
            assert daemon is not None
            daemon.client.adopt(
                cgroup=f"/{place.relative_to(CGROUPFS)}", name=f"agent-{number}", boundary=(
                    "exec" if row == "exec" else "declared"), boundary_programs=COMMAND,
            )  # fmt: skip
        places = [place / "agent" if daemon is not None else place for place in rooms]
        before_s, whole_s = cpu_s(daemon) if daemon else 0.0, busy_s()
        agents = [
            subprocess.Popen(
                [callers, str(options.seconds), *command(row, scratch, number)],
                stdout=subprocess.PIPE, text=True,
                env={**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket) if daemon else ""},
                preexec_fn=lambda place=place: enter_cgroup(place),  # noqa: PLW1509
            )
            for number, place in enumerate(places)
        ]  # fmt: skip
        times_ns = [int(line) for agent in agents for line in agent.communicate()[0].split()]
        assert all(agent.returncode == 0 for agent in agents), f"an agent of {row} failed"
        count = len(times_ns)
        told = daemon.client.status()["boundary"]["counts"] if daemon else {}
        return {
            "count": count,
            "p50_ms": statistics.median(times_ns) / 1e6,
            "p95_ms": statistics.quantiles(times_ns, n=20)[-1] / 1e6,
            "per_s": count / options.seconds,
            "daemon_cpu_ms": ((cpu_s(daemon) if daemon else 0.0) - before_s) * 1e3 / count,
            "all_cpu_ms": (busy_s() - whole_s) * 1e3 / count,
            "placed": told.get("placed", 0),
            "not_placed": sum(told.get(name, 0) for name in MISSED),
        }  # fmt: skip


@contextlib.contextmanager
def room(number: int) -> Iterator[Path]:
    """A cgroup as a container engine makes one."""
    place = Path(tempfile.mkdtemp(prefix=f"box-{number}-", dir=CGROUPFS))
    try:
        yield place
    finally:
        remove_tree(place)


def command(row: str, scratch: Path, number: int) -> list[str]:
    program = str(scratch / COMMAND)
    if row == "declared":
        return [str(find_program("agentcgroup-run")), "--", program]
    if row == "wrapper":
        return [str(scratch / "wrapper.sh"), str(scratch / f"work-{number}"), program]
    return [program]


def busy_s() -> float:
    """CPU time of the whole machine (proc(5), /proc/stat)."""
    _, user, nice, system, *_ = Path("/proc/stat").read_text().split(None, 5)
    return sum(map(int, (user, nice, system))) / os.sysconf("SC_CLK_TCK")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {figure: spread([run[figure] for run in runs]) for figure in runs[0]}


def ratios(runs: list[dict[str, Any]], bases: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(runs, bases, strict=True))
    return {
        figure: spread([run[figure] / base[figure] for run, base in pairs])
        for figure in ("p50_ms", "p95_ms", "per_s", "all_cpu_ms")
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "low": ordered[0], "high": ordered[-1]}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The exec boundary's cost.")
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
