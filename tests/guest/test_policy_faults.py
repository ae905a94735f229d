# SPDX-License-Identifier: Apache-2.0
"""What breaks while calls compete for memory costs a line or a call, never the others."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CGROUPFS, PrivateDaemon, Shim, locked_share, until

import agentcgroup

pytestmark = [pytest.mark.guest, pytest.mark.smoke]
MIB = 1 << 20
BUILT = Path(agentcgroup.__file__).parent / "_built"
PEAKS_MIB = {"high": 200, "low-1": 180, "low-2": 180}

# Grows in steps to a size (MiB) and stays there for a while, as a test suite does.
LOAD = """
import sys, time
held = []
for _ in range(int(sys.argv[1]) // 4):
    held.append(b"x" * (4 << 20))
    time.sleep(0.02)
time.sleep(1)
"""


@pytest.fixture
def small() -> Iterator[PrivateDaemon]:
    """400 MiB for calls that need 560 together."""
    with PrivateDaemon(session={"memory_reserve": "1M"}) as daemon:
        daemon.root.mkdir()
        (daemon.root / "memory.max").write_text(str(400 * MIB))
        yield daemon


def started(daemon: PrivateDaemon) -> dict[str, Shim]:
    for name in PEAKS_MIB:
        daemon.client.create_session(name, priority=name.partition("-")[0])
    return {
        name: daemon.shim(sys.executable, "-c", LOAD, str(peak), session=name)
        for name, peak in PEAKS_MIB.items()
    }


def all_completed(calls: dict[str, Shim]) -> bool:
    return [call.wait() for call in calls.values()] == [0] * len(calls) and all(
        call.outcome["reason"] == "completed" for call in calls.values()
    )


@pytest.fixture
def without_bpf_objects(tmp_path: Path) -> Iterator[None]:
    """An installation that was made without clang, mounted over the one there is."""
    bare = tmp_path / "built"
    shutil.copytree(BUILT, bare, ignore=shutil.ignore_patterns("*.bpf.o"))
    subprocess.run(["mount", "--bind", str(bare), str(BUILT)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(BUILT)], check=True)


@pytest.mark.usefixtures("without_bpf_objects")
def test_without_the_bpf_objects_it_says_so_once_and_works(small: PrivateDaemon) -> None:
    small.start()
    assert all_completed(started(small)), small.log_text()
    told = [line for line in small.log_text().splitlines() if "is not installed" in line]
    assert len(told) == 1, told


@pytest.mark.long
def test_the_daemon_cannot_be_paged_out(small: PrivateDaemon) -> None:
    """Under pressure the kernel drops code that it can read again; not the daemon's."""
    small.start()
    assert small.process is not None
    assert locked_share(small.process.pid) > 0.9
    status = Path(f"/proc/{small.process.pid}/status").read_text()
    assert "THP_enabled:\t0\n" in status, "huge pages in the making hold up the loop"
    assert "not locked" not in small.log_text()


def test_a_leaf_that_is_taken_away_costs_its_call_alone(small: PrivateDaemon) -> None:
    """Somebody with the right to do so kills and removes a cgroup the daemon steers."""
    small.start()
    calls = started(small)
    victim = calls.pop("low-2")
    name = small.call_of(victim)
    leaf = small.leaf(name)
    time.sleep(0.3)
    (leaf / "cgroup.kill").write_text("1")
    with contextlib.suppress(OSError):
        leaf.rmdir()
    assert victim.wait() != 0
    assert victim.outcome["reason"] in ("failed", "killed_by_policy")
    assert all_completed(calls), small.log_text()
    assert small.client.session("low-2").calls == []
    again = small.shim("true", session="low-2")
    assert again.wait() == 0


@contextlib.contextmanager
def read_only_cgroupfs() -> Iterator[None]:
    """For everybody, by whatever path they came to it."""
    subprocess.run(["mount", "-o", "remount,bind,ro", CGROUPFS], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,bind,rw", CGROUPFS], check=True)


@pytest.mark.long
def test_writes_that_are_refused_are_made_later(small: PrivateDaemon) -> None:
    small.start()
    calls = started(small)
    for call in calls.values():
        small.call_of(call)
    with read_only_cgroupfs():
        until(lambda: "cannot apply" in small.log_text(), "a write is refused", small.log_text)
        time.sleep(0.5)
    assert all_completed(calls), small.log_text()
    told = [line for line in small.log_text().splitlines() if "cannot apply" in line]
    kinds = [line.partition("cannot apply ")[2].split(",")[0] for line in told]
    assert len(kinds) == len(set(kinds)) <= 4, told
    assert "Traceback" not in small.log_text()


@pytest.mark.long
def test_a_daemon_that_pauses_under_load_loses_nobody(small: PrivateDaemon) -> None:
    """Events pile up meanwhile, and lines are met that nobody moves."""
    small.start()
    calls = started(small)
    for call in calls.values():
        until(lambda call=call: call.released, "it runs", small.log_text)  # type: ignore[misc]
    for _ in range(3):
        small.signal(signal.SIGSTOP)
        time.sleep(1)
        small.signal(signal.SIGCONT)
        time.sleep(0.5)
    assert all_completed(calls), small.log_text()
