# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe runqlat`: what it says without BCC, what it measures with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from harness import PrivateDaemon
from observing import check_without_bcc, measuring

from agentcgroup.client import Client

pytestmark = pytest.mark.guest

SPIN_S = 2.0
# Prints how long each waited for its CPU, in ns, as the kernel itself accounts for it.
SPIN = f"""
import os, sys, time
children = int(sys.argv[1])
os.sched_setaffinity(0, {{0}})
until_s = time.monotonic() + {SPIN_S}
for _ in range(children):
    if os.fork() == 0:
        while time.monotonic() < until_s: pass
        # In one write: two that print at once would tear each other's lines.
        with open("/proc/self/schedstat") as file: line = file.read().split()[1] + "\\n"
        os.write(1, line.encode())
        os._exit(0)
for _ in range(children): assert os.wait()[1] == 0
"""


NAPS = 200
NAP = f"import time\nfor _ in range({NAPS}): time.sleep(0.001)"


def spin(client: Client, session: str, processes: int) -> float:
    """Milliseconds that they waited together, says the kernel."""
    result = client.run(
        [sys.executable, "-c", SPIN, str(processes)], {"memory": "64M"},
        session=session, check=True, capture_output=True, text=True,
    )  # fmt: skip
    waits_ns = [int(line) for line in result.stdout.split()]
    assert len(waits_ns) == processes
    return sum(waits_ns) / 1e6


def check_order(figures: dict[str, Any]) -> None:
    assert figures["count"] > 0
    assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    assert figures["max"] <= figures["total"]


def scheduler() -> str:
    ops = Path("/sys/kernel/sched_ext/root/ops")
    return ops.read_text().strip() if ops.exists() else "kernel"


@pytest.mark.smoke
def test_without_bcc_one_line_says_what_to_install(daemon: PrivateDaemon) -> None:
    check_without_bcc(daemon, "runqlat")


@pytest.mark.bcc
@pytest.mark.long
def test_two_on_one_cpu_wait_a_slice_and_one_alone_does_not(daemon: PrivateDaemon) -> None:
    """In one measurement, because starting BCC takes the longest; naps for the wake-ups."""
    client = daemon.start().client
    for name in ("alone", "naps", "pair"):
        client.create_session(name, memory="200M")
    with measuring(daemon, "runqlat") as measured:
        spin(client, "alone", 1)
        waited_ms = spin(client, "pair", 2)
        client.run([sys.executable, "-c", NAP], session="naps", check=True)
        measured.interrupt()
    names = ["alone", "naps", "pair", "(outside)"]
    assert [record["session"] for record in measured.told["sessions"]] == names
    alone, naps, pair, outside = (measured.of(name)["runqlat_ms"] for name in names)
    for figures in (alone, naps, pair, outside):
        check_order(figures)
    assert pair["p50"] > 1 and alone["p50"] < pair["p50"]
    # What else ran in the session waited too: the interpreter that started them.
    print(f"the kernel's own account of the two: {waited_ms:.0f} ms")
    assert 0.95 * waited_ms < pair["total"] < 1.1 * waited_ms + 500
    # A timer may be early: who is woken before it was off its CPU did not wait.
    assert 0.9 * NAPS < naps["count"] < 2 * NAPS
    assert measured.told["scheduler"] == scheduler()
