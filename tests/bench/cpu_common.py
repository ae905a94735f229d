# SPDX-License-Identifier: Apache-2.0
"""What the CPU benchmarks share: the kernel's own scheduler (EEVDF) and ours in turn, cgroups with
processes in them, CPU time that was used, rows with their bounds.

"Under sched_ext" is while a private daemon with that CPU layer runs, "under EEVDF" while one
without it does: nothing else differs. Times in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import CGROUPFS, PrivateDaemon, enter_cgroup, remove_tree, until  # noqa: E402
from toolcall import compiled  # noqa: E402

from agentcgroup.bpf.sched import NAME  # noqa: E402
from agentcgroup.bpf.sched_plan import loaded_scheduler  # noqa: E402

__all__ = [
    "CPUS", "SCX", "Arena", "bounded", "finish", "idle_s", "interleaved", "options_parser",
    "program", "scheduler", "selected", "spread", "used_cpu_s",
]  # fmt: skip

SCX = Path("/sys/kernel/sched_ext")
LAYERS = {"eevdf": "files", "sched_ext": "sched_ext"}
CPUS = len(os.sched_getaffinity(0))
FIFO_PRIORITY = 10
SWITCH_S = 30.0
READINGS = 50
READING_S = 0.03
T = TypeVar("T")


# --- the scheduler


@contextlib.contextmanager
def scheduler(name: str) -> Iterator[PrivateDaemon]:
    """A daemon under that scheduler, `eevdf` or `sched_ext`. RuntimeError when it is not the one
    that schedules, or was not the one all the time until the block's end."""
    _expect(None, "before the start")
    with PrivateDaemon(daemon={"cpu_layer": LAYERS[name]}) as daemon:
        daemon.start()
        wanted = NAME if name == "sched_ext" else None
        _expect(wanted, f"with a daemon for {name}", daemon.log_text)
        switched = _times_switched_on()
        yield daemon
        _expect(wanted, "after the measurement", daemon.log_text, patience_s=0)
        if _times_switched_on() != switched:
            raise RuntimeError(f"{name}: the scheduler was changed meanwhile\n{daemon.log_text()}")
        daemon.stop()
        _expect(None, "after the daemon's end", daemon.log_text)


def _expect(
    ops: str | None, when: str, log: Callable[[], str] = str, *, patience_s: float = SWITCH_S
) -> None:
    with contextlib.suppress(AssertionError):
        until(lambda: loaded_scheduler() == ops, "", timeout_s=patience_s)
    if (found := loaded_scheduler()) != ops:
        raise RuntimeError(
            f"{when}: the sched_ext scheduler should be {ops}, and is {found}\n{log()[-4000:]}"
        )


def _times_switched_on() -> str:
    return (SCX / "enable_seq").read_text() if SCX.is_dir() else ""


def interleaved(
    options: argparse.Namespace, measure: Callable[[PrivateDaemon], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Each scheduler's runs: every round measures under each of them, in a drawn order. What was
    measured is kept after every round, for a guest may be lost."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.schedulers}
    draw = random.Random(options.seed)
    for number in range(options.rounds):
        for name in draw.sample(options.schedulers, len(options.schedulers)):
            with scheduler(name) as daemon:
                runs[name].append(measure(daemon))
        print(f"round {number + 1} of {options.rounds} is done", file=sys.stderr, flush=True)
        if options.json is not None:
            asked = {name: str(value) for name, value in vars(options).items()}
            kept = {"kernel": os.uname().release, "cpus": CPUS, "options": asked, "runs": runs}
            options.json.write_text(json.dumps(kept), encoding="utf-8")
    return runs


# --- cgroups and processes


class Arena:
    """A cgroup of its own at the top, and processes below it that end with the block."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="bench-", dir=CGROUPFS))
        self._processes: list[subprocess.Popen[Any]] = []

    def make(self, path: str, settings: Mapping[str, object] | None = None) -> Path:
        """The cgroup at `path` below, with what is missing above it; `settings` by file."""
        cgroup = self.top
        for part in path.split("/"):
            (cgroup / "cgroup.subtree_control").write_text("+cpu")
            cgroup /= part
            cgroup.mkdir(exist_ok=True)
        for file, value in (settings or {}).items():
            (cgroup / file).write_text(str(value))
        return cgroup

    def start(
        self, cgroup: Path, argv: Sequence[str], count: int = 1, **popen: Any
    ) -> list[subprocess.Popen[Any]]:
        """Each is in its cgroup before it becomes the command."""
        started = [
            subprocess.Popen(argv, preexec_fn=lambda: enter_cgroup(cgroup), **popen)  # noqa: PLW1509
            for _ in range(count)
        ]
        self._processes += started
        return started

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        (self.top / "cgroup.kill").write_text("1")
        for process in self._processes:
            with process:  # waits and closes its pipes
                pass
        remove_tree(self.top)


@contextlib.contextmanager
def program(name: str) -> Iterator[str]:
    """A program of tests/bench/c, compiled for the time of the block."""
    with tempfile.TemporaryDirectory() as scratch:
        yield str(compiled(Path(scratch), name))


def used_cpu_s(
    cgroups: Sequence[Path], window_s: float, warm_up_s: float = 1.0
) -> tuple[list[float], float]:
    """CPU time that each used during the window, and how long that really was."""
    time.sleep(warm_up_s)
    with _before_everybody():
        begun_s, before = _reading(cgroups)
        time.sleep(window_s)
        ended_s, after = _reading(cgroups)
    return [b - a for a, b in zip(before, after, strict=True)], ended_s - begun_s


def _reading(cgroups: Sequence[Path]) -> tuple[float, list[float]]:
    """When, and what each had used: all at one time. RuntimeError when that can't be had."""
    for _ in range(READINGS):
        begun_s = time.monotonic()
        found = [_usage_s(cgroup) for cgroup in cgroups]
        # An emulated CPU stands still now and then.
        if time.monotonic() - begun_s < READING_S:
            return begun_s, found
    raise RuntimeError(f"no reading of cpu.stat took less than {READING_S:g} s")


def idle_s() -> float:
    """How long the CPUs have stood idle since boot, summed (proc(5), /proc/stat)."""
    _, _user, _nice, _system, idle, iowait, *_ = Path("/proc/stat").read_text().split(None, 7)
    return (int(idle) + int(iowait)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _before_everybody() -> Iterator[None]:
    """Nobody runs between two readings, and a reading is not late because the CPU is taken."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _usage_s(cgroup: Path) -> float:
    fields = dict(line.split() for line in (cgroup / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6


# --- rows


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "low": ordered[0], "high": ordered[-1]}


def bounded(row: dict[str, Any], figure: str, *, at_most: float = 0, at_least: float = 0) -> None:
    """Add the bound, and whether the median over the rounds meets it, and tell so."""
    median = row[figure]["median"]
    met = median <= at_most if at_most else median >= at_least
    row["bound"] = {"at_most": at_most} if at_most else {"at_least": at_least}
    row["met"] = met
    text = "at most" if at_most else "at least"
    name = " ".join(str(value) for value in row.values() if isinstance(value, str))
    print(
        f"{name}: {figure} {median:.3g} ({row[figure]['low']:.3g} to {row[figure]['high']:.3g}), "
        f"{text} {at_most or at_least:g}: {'met' if met else 'NOT met'}",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def finish(options: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    """Print the rows; the exit status: with --check 1 when our scheduler misses a bound."""
    found = {"kernel": os.uname().release, "cpus": CPUS, "rounds": options.rounds, "rows": rows}
    print(json.dumps(found, indent=1))
    missed = [row for row in rows if row.get("scheduler") != "eevdf" and not row.get("met", True)]
    return int(options.check and bool(missed))


def options_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--schedulers", type=_schedulers, default=list(LAYERS), help="eevdf,sched_ext"
    )
    parser.add_argument(
        "--only", default="*", help="what to measure: patterns of names, with commas; default all"
    )
    parser.add_argument("--json", type=Path, help="keep every run here")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is not met")
    return parser


def selected(offered: Mapping[str, T], patterns: str) -> dict[str, T]:
    """Those whose names match one of the patterns. ValueError when none does."""
    wanted = patterns.split(",")
    found = {
        name: value
        for name, value in offered.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }
    if not found:
        raise ValueError(f"{patterns}: matches none of {', '.join(offered)}")
    return found


def _schedulers(text: str) -> list[str]:
    found = text.split(",")
    if unknown := set(found) - set(LAYERS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(LAYERS)}")
    return found
