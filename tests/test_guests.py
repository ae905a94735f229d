# SPDX-License-Identifier: Apache-2.0
"""The guest tests, one throwaway guest a kernel: what `make test` proves in a real kernel.

`newest` runs the short set, the fallback kernels the smoke set. A guest is one thread of the
host's: as many as there are CPUs run side by side, two at most. A guest that is lost (125) before
its time is over is started once more; lost, it is reported as lost, never as a failed test. Inside
a guest this file is not collected.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOST = 125
SIDE_BY_SIDE = min(2, os.cpu_count() or 1)
LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    kernel: str
    boot: tuple[str, ...]
    chosen: str
    timeout_s: int


RUNS = [
    Run("newest", "newest", (), "guest", 2400),
    Run("noscx", "noscx", (), "smoke", 1800),
    Run("lts", "lts", (), "smoke", 1500),
    Run("newest--systemd", "newest", ("--systemd",), "systemd", 1200),
]


class Guests:
    """Runs them in order of RUNS; what each says goes into a file of its own."""

    def __init__(self, told: Path) -> None:
        self._told = told
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended: dict[str, Future[int]] = {}

    @contextmanager
    def started(self) -> Iterator[Guests]:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            self._ended = {run.name: pool.submit(self._status_of, run) for run in RUNS}
            try:
                yield self
            finally:
                self._stop()

    def follow(self, run: Run) -> int:
        """The run's exit status, with its output on ours while it lasts."""
        ended = self._ended[run.name]
        self._path(run).touch()
        with self._path(run).open(encoding="utf-8", errors="replace") as told:
            while True:
                over = ended.done()
                sys.stdout.write(told.read())
                sys.stdout.flush()
                if over:
                    return ended.result()
                self._stopped.wait(LOOK_EVERY_S)

    def _status_of(self, run: Run) -> int:
        begun_s = time.monotonic()
        status = self._once(run)
        # One that was too slow would be too slow again.
        over = time.monotonic() - begun_s >= run.timeout_s
        return self._once(run) if status == LOST and not over else status

    def _once(self, run: Run) -> int:
        command = [
            str(ROOT / "sandboxes/guest/run"), "--kernel", run.kernel, *run.boot,
            "--timeout", str(run.timeout_s), "--",
            "pytest", "-q", "-p", "no:cacheprovider", "-m", run.chosen,
            "/src/tests/guest", "/src/tests/contract",
        ]  # fmt: skip
        with self._path(run).open("ab") as told:
            with self._lock:
                if self._stopped.is_set():
                    return LOST
                process = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told)
                self._running.add(process)
            status = process.wait()
            with self._lock:
                self._running.discard(process)
        return status

    def _stop(self) -> None:
        with self._lock:
            self._stopped.set()
            for process in self._running:
                process.terminate()

    def _path(self, run: Run) -> Path:
        return self._told / f"{run.name}.txt"


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    with Guests(tmp_path_factory.mktemp("guests")).started() as guests:
        yield guests


@pytest.mark.skipif("AGENTCGROUP_GUEST" in os.environ, reason="this is the guest")
@pytest.mark.parametrize("run", RUNS, ids=[run.name for run in RUNS])
def test_in_guest(run: Run, guests: Guests, capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():
        sys.stdout.write(f"\n== guest tests on {run.name}\n")
        status = guests.follow(run)
    if status == LOST:
        pytest.exit(f"the {run.name} guest was lost: nothing was proved there", LOST)
    assert status == 0, f"guest tests on {run.name} ended with status {status}"
