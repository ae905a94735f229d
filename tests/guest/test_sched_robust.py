# SPDX-License-Identifier: Apache-2.0
"""The scheduler under abuse: whatever is done to it, every task goes on and the kernel is content.

Cgroups that come and go, are removed while their tasks wait, tasks whose CPUs change, a gate that
nobody opens, a cpu.max that is next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import enter_cgroup, until
from sched_harness import forget_pins, kernel_complaints

from agentcgroup.bpf.sched import Scheduler
from agentcgroup.bpf.sched_maps import Policy, Timing
from agentcgroup.types.intents import Latency, Priority
from agentcgroup.units import NS_PER_S

pytestmark = [pytest.mark.guest, pytest.mark.sched_ext]

SPIN = ["sh", "-c", "while :; do :; done"]
NS_PER_MS = 1_000_000
SHORT_LIVES = 50
MANY_LIVES = 10_000
Opener = Callable[..., Scheduler]
Starter = Callable[[Path, int], list[subprocess.Popen[bytes]]]


@pytest.fixture
def scheduler() -> Iterator[Opener]:
    """Opens one for this test; it must still run at the end."""
    with contextlib.ExitStack() as stack:

        def start(**timing: int) -> Scheduler:
            lease_ns = time.monotonic_ns() + 3600 * NS_PER_S
            opened = Scheduler.open(
                None, Timing(lease_until_ns=lease_ns, linger_ns=60 * NS_PER_S, **timing), gate=True
            )
            stack.callback(opened.close)
            stack.callback(lambda: _assert_runs(opened))
            return opened

        yield start
    forget_pins()
    assert kernel_complaints() == []


@pytest.fixture
def busy() -> Iterator[Starter]:
    """Starts spinners in a cgroup; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(cgroup: Path, count: int) -> list[subprocess.Popen[bytes]]:
        new = [
            subprocess.Popen(SPIN, preexec_fn=lambda: enter_cgroup(cgroup))  # noqa: PLW1509
            for _ in range(count)
        ]
        started.extend(new)
        return new

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
def test_cgroups_come_and_go_beside_busy_ones(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    scheduler()
    neighbour = child(scratch_cgroup, "busy")
    busy(neighbour, 3)
    live(scratch_cgroup, SHORT_LIVES)
    assert progresses(neighbour)


@pytest.mark.soak
def test_ten_thousand_cgroups_come_and_go(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    opened = scheduler()
    neighbour = child(scratch_cgroup, "busy")
    busy(neighbour, 3)
    live(scratch_cgroup, MANY_LIVES)
    assert progresses(neighbour) and opened.runs()


@pytest.mark.soak
@pytest.mark.parametrize("cause", ["cpu", "fork", "switch", "affinity", "mmapfork", "nice"])
def test_stress_does_not_get_it_ejected(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path, cause: str
) -> None:
    scheduler()
    neighbour = child(scratch_cgroup, "busy")
    busy(neighbour, 1)
    subprocess.run(["stress-ng", f"--{cause}", "4", "--timeout", "60"], check=True)
    assert progresses(neighbour)


def test_a_cgroup_is_killed_and_removed_while_its_tasks_wait(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    """They wait for a cpu.max of which they had more than is theirs; a larger one frees them."""
    scheduler()
    for round_number in range(5):
        leaf = child(scratch_cgroup, f"waits{round_number}")
        spinners = busy(leaf, 3)
        (leaf / "cpu.max").write_text("1000 1000000")
        until(lambda to=leaf: not progresses(to, 0.3), "they wait")
        before_s = time.monotonic()
        (leaf / "cpu.max").write_text("max 1000000")
        (leaf / "cgroup.kill").write_text("1")
        for process in spinners:
            assert process.wait(timeout=60) == -signal.SIGKILL
        leaf.rmdir()
        assert time.monotonic() - before_s < 5.0


@pytest.mark.long
def test_tasks_go_on_wherever_their_cpus_are(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    scheduler()
    draw = random.Random(0)
    leaves = [child(scratch_cgroup, f"leaf{number}") for number in range(3)]
    spinners = [process for leaf in leaves for process in busy(leaf, 2)]
    cpus = sorted(os.sched_getaffinity(0))
    for _ in range(100):
        allowed = draw.sample(cpus, draw.randint(1, len(cpus)))
        os.sched_setaffinity(draw.choice(spinners).pid, allowed)
        time.sleep(0.01)
    for process in spinners:
        os.sched_setaffinity(process.pid, {cpus[-1]})
    assert all(progresses(leaf) for leaf in leaves), "all on one CPU, the other one idle"


def test_a_gate_that_is_stuck_opens_by_itself(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    """Closed for an hour: who waits gets a turn before the kernel loses its patience."""
    opened = scheduler(gate_closed_ns=3600 * NS_PER_S, gate_open_ns=NS_PER_MS)
    low, high = child(scratch_cgroup, "low"), child(scratch_cgroup, "high")
    opened.set_policy(low.stat().st_ino, Policy(Latency.STANDARD, Priority.LOW))
    opened.set_policy(high.stat().st_ino, Policy(Latency.STANDARD, Priority.HIGH))
    spinners = busy(low, 2)
    reclaims = f"while :; do echo 64K > {high}/memory.reclaim; sleep 0.01; done 2> /dev/null"
    reclaimer = subprocess.Popen(["sh", "-c", reclaims], preexec_fn=lambda: enter_cgroup(high))  # noqa: PLW1509
    try:
        until(lambda: opened.gate_counts()["low"], "the gate is closed")
        until(lambda: not progresses(low, 0.5), "nobody of low runs")
        until(lambda: progresses(low, 0.5), "and all the same it does", timeout_s=60)
        opened.pause_gate(time.monotonic_ns() + 60 * NS_PER_S)
        before_s = time.monotonic()
        for process in spinners:
            process.kill()
            process.wait()
        assert time.monotonic() - before_s < 5.0, "a pause is for who is killed"
    finally:
        reclaimer.kill()
        reclaimer.wait()


@pytest.mark.long
def test_next_to_no_quota_is_no_reason_to_eject(
    scheduler: Opener, busy: Starter, scratch_cgroup: Path
) -> None:
    """A turn owes a thousand periods, and the kernel ejects after thirty seconds of waiting."""
    scheduler()
    leaf = child(scratch_cgroup, "leaf")
    busy(leaf, 4)
    (leaf / "cpu.max").write_text("1000 1000000")
    used_before = usage_us(leaf)
    time.sleep(45)
    used_s = (usage_us(leaf) - used_before) / 1e6
    (leaf / "cpu.max").write_text("max 1000000")
    print(f"{used_s:.3f} s of CPU in 45 s for a quota of 0.045 s")
    assert 0 < used_s < 0.5


def live(parent: Path, lives: int) -> None:
    for number in range(lives):
        leaf = child(parent, f"short{number}")
        done = subprocess.run(
            ["true"], preexec_fn=lambda to=leaf: enter_cgroup(to), check=True, timeout=60
        )
        assert done.returncode == 0
        leaf.rmdir()


def child(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def usage_us(cgroup: Path) -> int:
    return int((cgroup / "cpu.stat").read_text().split()[1])


def progresses(cgroup: Path, within_s: float = 2.0) -> bool:
    before = usage_us(cgroup)
    time.sleep(within_s)
    return usage_us(cgroup) > before


def _assert_runs(opened: Scheduler) -> None:
    assert opened.runs(), opened.exit_info()
