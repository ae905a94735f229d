# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe alloclat`: what it says without BCC, what it measures with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import PATIENCE_S, PrivateDaemon

pytestmark = pytest.mark.guest

HOG = "import mmap; m = mmap.mmap(-1, {mib} << 20); m.madvise(mmap.MADV_NOHUGEPAGE)\n"
HOG += "for i in range(0, len(m), 4096): m[i] = 1"
WITHOUT_BCC = "import sys; sys.modules['bcc'] = None; from agentcgroup.cli.main import main; main()"


def hog(mib: int) -> list[str]:
    return [sys.executable, "-c", HOG.format(mib=mib)]


def environment(daemon: PrivateDaemon) -> dict[str, str]:
    return {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}


class Measured:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: dict[str, Any] = {}

    def wait(self) -> None:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, err) == (0, ""), err
        self.told = json.loads(out)

    def of(self, session: str) -> dict[str, Any]:
        return next(record for record in self.told["sessions"] if record["session"] == session)


@contextmanager
def measuring(daemon: PrivateDaemon, *options: str) -> Iterator[Measured]:
    process = subprocess.Popen(
        ["agentcgroup", "observe", "alloclat", "--json", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(daemon),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Measuring"), line + process.stderr.read()
        yield Measured(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.smoke
def test_without_bcc_one_line_says_what_to_install(daemon: PrivateDaemon) -> None:
    daemon.start().client.create_session("s", memory="200M")
    shown = subprocess.run(
        [sys.executable, "-c", WITHOUT_BCC, "observe", "alloclat", "--session", "s"],
        capture_output=True, text=True, env=environment(daemon), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (78, "", 1)
    assert "apt install python3-bpfcc" in shown.stderr


@pytest.mark.bcc
def test_counts_the_faults_of_each_session(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    for name in ("s", "t"):
        client.create_session(name, memory="300M")
    with measuring(daemon) as measured:
        assert client.run(hog(64), {"memory": "128M"}, session="s").returncode == 0
        assert client.run(["true"], session="t").returncode == 0
        measured.process.send_signal(signal.SIGINT)
        measured.wait()
    print(json.dumps(measured.told))
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
def test_sees_the_sleep_over_the_grant_and_ends_with_the_session(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="200M", memory_reserve="64M")
    holder = daemon.shim("sleep", "600", session="s", options=("--memory", "100M"))
    daemon.call_of(holder)
    with measuring(daemon, "--session", "s") as measured:
        # It outgrows what is left, sleeps at its grant, is frozen, and killed after its wait.
        result = client.run(hog(120), {"memory": "16M", "max_wait_s": 2}, session="s")
        assert result.returncode == -9 and result.outcome is not None
        client.end_session("s")
        measured.wait()
    print(json.dumps(measured.told))
    over = measured.of("s")["over_high_ms"]
    assert over["count"] > 0 and over["max"] > 10
    assert over["total"] < 3 * (result.outcome.throttled_ms + result.outcome.frozen_ms + 1000)
