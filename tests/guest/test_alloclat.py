# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe alloclat`: what it says without BCC, what it measures with it."""

from __future__ import annotations

import sys

import pytest
from harness import PATIENCE_S, PrivateDaemon
from observing import check_without_bcc, measuring

pytestmark = pytest.mark.guest

HOG = "import mmap; m = mmap.mmap(-1, {mib} << 20); m.madvise(mmap.MADV_NOHUGEPAGE)\n"
HOG += "for i in range(0, len(m), 4096): m[i] = 1"


def hog(mib: int) -> list[str]:
    return [sys.executable, "-c", HOG.format(mib=mib)]


@pytest.mark.smoke
def test_without_bcc_one_line_says_what_to_install(daemon: PrivateDaemon) -> None:
    check_without_bcc(daemon, "alloclat")


@pytest.mark.bcc
@pytest.mark.long
def test_counts_the_faults_of_each_session(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    for name in ("s", "t"):
        client.create_session(name, memory="300M")
    with measuring(daemon, "alloclat") as measured:
        assert client.run(hog(64), {"memory": "128M"}, session="s").returncode == 0
        assert client.run(["true"], session="t").returncode == 0
        measured.interrupt()
    pages = 64 * 256
    big, small = measured.of("s"), measured.of("t")
    assert pages <= big["fault_ms"]["count"] < 3 * pages
    assert 0 < small["fault_ms"]["count"] < pages / 4
    assert big["charge_ms"]["count"] > pages / 64
    for figures in (big["fault_ms"], big["charge_ms"]):
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
        assert figures["max"] <= figures["total"] < 1000 * PATIENCE_S
    assert measured.told["functions"]["fault"] == "handle_mm_fault"


@pytest.mark.bcc
@pytest.mark.long
def test_sees_the_sleep_over_the_grant_and_ends_with_the_session(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="200M", memory_reserve="64M")
    holder = daemon.shim("sleep", "600", session="s", options=("--memory", "100M"))
    daemon.call_of(holder)
    with measuring(daemon, "alloclat", "--session", "s") as measured:
        # It outgrows what is left, sleeps at its grant, is frozen, and killed after its wait.
        result = client.run(hog(120), {"memory": "16M", "max_wait_s": 2}, session="s")
        assert result.returncode == -9 and result.outcome is not None
        client.end_session("s")
        measured.wait()
    over = measured.of("s")["over_high_ms"]
    assert over["count"] > 0 and over["max"] > 10
    assert over["total"] < 3 * (result.outcome.throttled_ms + result.outcome.frozen_ms + 1000)
