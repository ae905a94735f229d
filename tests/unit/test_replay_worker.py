# SPDX-License-Identifier: Apache-2.0
"""The replayed process: growth in chunks, shrinking by whole chunks, what it leaves behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from shim_fake import BUILDS, built

from agentcgroup.errors import NotSupportedError
from agentcgroup.replay import process
from agentcgroup.replay.process import WorkerFiles, WorkerReport, tell_start

MIB = 1 << 20
CHUNK = 64 * MIB


@pytest.fixture(scope="module", params=BUILDS)
def program(request: pytest.FixtureRequest) -> Path:
    return built("agentcgroup-replay", request.param)


@pytest.fixture
def files(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerFiles:
    monkeypatch.setattr(process, "find_program", lambda name: str(program))
    return WorkerFiles(tmp_path, "call")


class Follower:
    """A process that is told its levels."""

    def __init__(self, started: subprocess.Popen[bytes], result: Path) -> None:
        self._process = started
        self._result = result
        tell_start(started, 0)
        self._answered()

    def _answered(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"

    def reach(self, size_bytes: int) -> int:
        """Bytes held then."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % size_bytes)
        self._process.stdin.flush()
        self._answered()
        return int(process._RESULT.unpack_from(self._result.read_bytes())[1])

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


@contextmanager
def following(
    files: WorkerFiles, tmp_path: Path, *, exact: bool, base_bytes: int = 0
) -> Iterator[Follower]:
    command = files.prepare(None, speed=1, base_bytes=base_bytes, exact=exact)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        yield Follower(started, tmp_path / "call.result")
        assert started.stdin is not None
        started.stdin.close()
        assert started.wait(30) == 0


def play(command: list[str], due_ns: int, waited_ms: float = 0.0) -> None:
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        tell_start(started, due_ns, waited_ms)
        assert started.wait(30) == 0


def test_growth_is_one_step_and_shrinking_gives_up_whole_chunks(
    files: WorkerFiles, tmp_path: Path
) -> None:
    with following(files, tmp_path, exact=False, base_bytes=5) as held:
        assert held.reach(150 * MIB) == 150 * MIB
        assert held.reach(140 * MIB) == 2 * CHUNK
        assert held.reach(100 * MIB) == CHUNK
        assert held.reach(CHUNK) == CHUNK
        assert held.reach(CHUNK + 1) == CHUNK + 1
        assert held.reach(0) == 0
    report = files.collect()
    assert report.completed
    assert report.samples_done == 6
    assert report.peak_bytes == 150 * MIB
    assert len(report.latencies_ms) == 2
    assert 0 < report.latencies_ms[1] < report.latencies_ms[0]


def test_exact_shrinks_to_the_level(files: WorkerFiles, tmp_path: Path) -> None:
    levels = [150 * MIB, 140 * MIB, 100 * MIB, 100 * MIB - 1, 100 * MIB, 10 * MIB, 1, 0, 5000, 4097]
    with following(files, tmp_path, exact=True) as held:
        empty = held.resident_bytes()
        for level in levels:
            assert held.reach(level) == level
            # A sanitizer's own memory grows with what it looks after.
            assert -MIB < held.resident_bytes() - empty - level < level / 6 + 4 * MIB
    assert files.collect().peak_bytes == 150 * MIB


def test_samples_come_at_their_time_divided_by_speed(files: WorkerFiles) -> None:
    due_ns = time.monotonic_ns() + 300_000_000
    samples = [(0.0, MIB), (0.5, 8 * MIB), (1.0, 3 * MIB)]
    play(files.prepare(samples, speed=20, base_bytes=MIB, exact=True), due_ns)
    report = files.collect()
    assert (report.completed, report.samples_done, report.peak_bytes) == (True, 3, 8 * MIB)
    assert len(report.latencies_ms) == 2
    assert report.end_ns is not None
    assert report.end_ns >= due_ns + 50_000_000


@pytest.mark.parametrize(
    ("late_ms", "waited_ms", "start_ms"),
    [
        (0, 0.0, 1000),
        (200, 0.0, 800),  # a slow start is made up for
        (5000, 4900.0, 900),  # waiting is not
        (60_000, 0.0, 500),  # and no more than half a second
        (-300, 0.0, 1300),
    ],
)
def test_levels_count_from_when_it_was_due_and_had_waited(
    monkeypatch: pytest.MonkeyPatch, late_ms: int, waited_ms: float, start_ms: int
) -> None:
    monkeypatch.setattr(process.time, "monotonic_ns", lambda: 1_000_000_000)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as echo:
        tell_start(echo, 1_000_000_000 - late_ms * 1_000_000, waited_ms)
        assert echo.communicate()[0] == b"%d\n" % (start_ms * 1_000_000)


def test_what_it_holds_is_memory(files: WorkerFiles, tmp_path: Path) -> None:
    command = files.prepare([(0, 40 * MIB), (1000, 0)], speed=1, base_bytes=20 * MIB, exact=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        tell_start(started, 0)
        _await_levels(tmp_path, 1)
        status = Path(f"/proc/{started.pid}/status").read_text()
        started.kill()
    resident_kib = int(status.split("VmRSS:")[1].split()[0])
    own_bytes = resident_kib * 1024 - 60 * MIB
    assert own_bytes >= 0
    if b"__asan" not in Path(command[0]).read_bytes():
        assert own_bytes < MIB


def test_who_is_killed_leaves_what_it_came_to(files: WorkerFiles, tmp_path: Path) -> None:
    command = files.prepare([(0, MIB), (1000, 5)], speed=1, base_bytes=0, exact=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        tell_start(started, 0)
        _await_levels(tmp_path, 1)
        started.kill()
    assert files.collect() == WorkerReport(samples_done=1, peak_bytes=MIB)


def test_who_never_ran_has_done_nothing(files: WorkerFiles) -> None:
    files.prepare([(0, MIB)], speed=1, base_bytes=0, exact=True)
    assert files.collect() == WorkerReport()


def test_who_is_not_told_a_start_ends(files: WorkerFiles) -> None:
    command = files.prepare([(0, MIB)], speed=1, base_bytes=0, exact=True)
    done = subprocess.run(
        command, input="soon\n", capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == "agentcgroup-replay: stdin: the first line is not START_NS\n"


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ("0 5\n7\n", "levels: a line is not NS BYTES"),
        ("0 5 6\n", "levels: a line is not NS BYTES"),
        ("0 five\n", "levels: a line is not NS BYTES"),
        ("0 5", "levels: a line is not NS BYTES"),
        ("0 99999999999999999999\n", "levels: a line is not NS BYTES"),
        ("0" * 80, "levels: a line is not NS BYTES"),
    ],
)
def test_other_levels_are_told(files: WorkerFiles, tmp_path: Path, levels: str, says: str) -> None:
    command = files.prepare([], speed=1, base_bytes=0, exact=True)
    (tmp_path / "call.levels").write_text(levels)
    done = subprocess.run(
        command, input="0\n", capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (1, f"agentcgroup-replay: {says}\n")
    assert not files.collect().completed


@pytest.mark.parametrize(
    "arguments", [[], ["whole", "2"], ["some", "2", "r"], ["exact", "2x", "r"]]
)
def test_wrong_use(program: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.startswith("agentcgroup-replay: usage: ")


def test_without_the_program_it_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "find_program", lambda name: None)
    with pytest.raises(NotSupportedError, match="agentcgroup-replay is not installed"):
        WorkerFiles(tmp_path, "call").prepare([], speed=1, base_bytes=0, exact=True)


def _await_levels(folder: Path, count: int) -> None:
    deadline_s = time.monotonic() + 20
    while process._RESULT.unpack_from((folder / "call.result").read_bytes())[0] < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
