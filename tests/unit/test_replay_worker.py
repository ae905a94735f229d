# SPDX-License-Identifier: Apache-2.0
"""The replayed process: growth in chunks, shrinking by whole chunks, result and progress."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcgroup.replay import worker
from agentcgroup.replay.worker import PROGRESS, Chunk, Memory, play, timed_levels


class FakeChunk(Chunk):
    released: list[int] = []

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def release(self) -> None:
        self.released.append(self.size_bytes)


class Ticks:
    """One millisecond a look."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


def _memory(chunk: int = 64) -> Memory:
    FakeChunk.released = []
    return Memory(chunk, FakeChunk, Ticks())


def test_growth_is_cut_into_chunks_and_timed_as_one_step() -> None:
    memory = _memory()
    memory.reach(150)
    assert memory.held_bytes == memory.peak_bytes == 150
    assert [c.size_bytes for c in memory._chunks] == [64, 64, 22]
    assert memory.latencies_ms == [1.0]


def test_shrinking_gives_up_whole_chunks_and_may_overshoot() -> None:
    memory = _memory()
    memory.reach(150)
    memory.reach(140)
    assert memory.held_bytes == 128
    assert FakeChunk.released == [22]
    memory.reach(100)
    assert memory.held_bytes == 64
    memory.reach(64)
    assert len(memory.latencies_ms) == 1
    memory.reach(65)
    assert memory.held_bytes == 65
    assert len(memory.latencies_ms) == 2
    assert memory.peak_bytes == 150
    memory.reach(0)
    assert memory.held_bytes == 0


def test_samples_wait_for_their_time_divided_by_speed() -> None:
    waited: list[int] = []
    levels = list(timed_levels([(0.0, 5), (2.0, 7)], 10, 1000, waited.append))
    assert levels == [5, 7]
    assert waited == [1000, 1000 + 200_000_000]


def test_play_reports_every_level() -> None:
    seen: list[tuple[int, int]] = []
    done = play(
        [10, 0, 20], _memory(), lambda count, memory: seen.append((count, memory.held_bytes))
    )
    assert done == 3
    assert seen == [(1, 10), (2, 0), (3, 20)]


def _plan(tmp_path: Path, **more: object) -> Path:
    plan = {
        "samples": [[0, 1 << 20], [0.5, 8 << 20], [1.0, 3 << 20]],
        "speed": 20,
        "base_bytes": 1 << 20,
        "chunk_bytes": 2 << 20,
        "start_ns": 0,
        "follow": False,
        "result": str(tmp_path / "result.json"),
        "progress": str(tmp_path / "progress"),
        **more,
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_as_a_process(tmp_path: Path) -> None:
    start_ns = time.monotonic_ns() + 300_000_000
    plan = _plan(tmp_path, start_ns=start_ns)
    command = [sys.executable, "-I", "-S", worker.__file__, str(plan)]
    subprocess.run(command, check=True, timeout=30)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_done"] == 3
    assert result["peak_bytes"] == 8 << 20
    assert len(result["latencies_ms"]) == 2
    assert result["begin_ns"] >= start_ns
    assert result["end_ns"] - result["begin_ns"] >= 50_000_000
    done, held, peak = PROGRESS.unpack((tmp_path / "progress").read_bytes())
    assert (done, peak) == (3, 8 << 20)
    assert held <= 3 << 20


def test_following_levels_from_stdin(tmp_path: Path) -> None:
    plan = _plan(tmp_path, follow=True)
    command = [sys.executable, "-m", "agentcgroup.replay.worker", str(plan)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        for level in (5 << 20, 1 << 20):
            process.stdin.write(f"{level}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "\n"
        process.stdin.close()
        assert process.wait(30) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_done"] == 2
    assert result["peak_bytes"] == 5 << 20


def test_a_killed_worker_leaves_progress_and_no_result(tmp_path: Path) -> None:
    plan = _plan(tmp_path, samples=[[0, 1 << 20], [1000, 5]])
    process = subprocess.Popen([sys.executable, worker.__file__, str(plan)])
    deadline = time.monotonic() + 20
    progress = tmp_path / "progress"
    while not (progress.exists() and progress.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "result.json").exists()
    assert PROGRESS.unpack(progress.read_bytes()) == (1, 1 << 20, 1 << 20)


def test_it_imports_the_standard_library_only() -> None:
    code = "import sys, agentcgroup.replay.worker; print('pydantic' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert output.strip() == "False"


@pytest.mark.parametrize("size", [1, 4096, 4097])
def test_a_real_chunk_is_released(size: int) -> None:
    chunk = Chunk(size)
    assert chunk.size_bytes == size
    chunk.release()
