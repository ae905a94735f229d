# SPDX-License-Identifier: Apache-2.0
"""Jobs from traces, and sessions played in a fake place: order, delays, losses."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.replay.options import DeclaredIntent, Granularity, ReplayOptions
from agentcgroup.replay.places import CallEnd, Shares
from agentcgroup.replay.player import SessionPlayer
from agentcgroup.replay.process import start_in, tell_start
from agentcgroup.trace.jobs import PROCESS_BYTES, make_jobs
from agentcgroup.trace.model import CallSpan, SessionTrace, split_calls
from agentcgroup.types.intents import Intent, Priority

MB = 1 << 20
SPEED = 20.0
SAMPLES = ((0.0, 4 * MB), (1.0, 5 * MB), (2.0, 20 * MB), (3.0, 5 * MB), (4.0, 4 * MB))


def _trace(name: str = "t", *spans: CallSpan) -> SessionTrace:
    calls, agent = split_calls(SAMPLES, list(spans or (CallSpan(1.5, 2.5, "Bash", "x"),)))
    return SessionTrace(name, SAMPLES, calls, agent)


def _options(**more: Any) -> ReplayOptions:
    return ReplayOptions(**{"total_memory_bytes": 1 << 30, "base_memory_bytes": MB, **more})


@pytest.mark.parametrize(
    ("layers", "memory", "scheduled"),
    [
        ("auto", "auto", False),
        ("sched_ext", "auto", True),
        ("files, events,gate,sched_ext", "files,events,gate", True),
    ],
)
def test_layers_are_settings_of_the_private_daemon(
    layers: str, memory: str, scheduled: bool
) -> None:
    expected = {"memory_layers": memory}
    required = {"cpu_layer": "sched_ext", "cpu_require": True}
    assert _options(layers=layers).layer_settings() == expected | (required if scheduled else {})


def test_session_granularity_is_one_call_with_everything() -> None:
    (job,) = make_jobs([_trace()], [Priority.HIGH], _options())
    assert job.agent is None
    assert [call.samples for call in job.calls] == [SAMPLES]
    assert job.calls[0].base_bytes == MB
    assert job.need_bytes == 20 * MB + MB + PROCESS_BYTES


def test_tool_granularity_divides_agent_and_calls() -> None:
    (job,) = make_jobs([_trace()], [Priority.LOW], _options(granularity=Granularity.TOOL))
    assert [size for _, size in job.agent or ()] == [4 * MB, 5 * MB, 5 * MB, 5 * MB, 4 * MB]
    assert [call.samples for call in job.calls] == [((0.0, 0), (0.5, 15 * MB), (1.0, 15 * MB))]
    assert job.calls[0].base_bytes == 0


def test_names_become_unique_session_names() -> None:
    traces = [_trace(name) for name in ("a b/c", "x", "x", "agent", "__")]
    jobs = make_jobs(traces, [Priority.LOW] * 5, _options())
    assert [job.name for job in jobs] == ["a.b.c", "x", "x-2", "agent-1", "session"]


def test_declared_intents() -> None:
    def memory(kind: DeclaredIntent, seed: int = 0) -> list[int | None]:
        jobs = make_jobs([_trace(), _trace()], [Priority.LOW] * 2, _options(intent=kind, seed=seed))
        return [job.calls[0].intent.memory for job in jobs]

    true = 20 * MB + MB + PROCESS_BYTES
    assert memory(DeclaredIntent.NONE) == [None, None]
    assert memory(DeclaredIntent.PEAK) == [true, true]
    noisy = memory(DeclaredIntent.NOISY)
    assert noisy == memory(DeclaredIntent.NOISY)
    assert noisy != memory(DeclaredIntent.NOISY, seed=1)
    assert all(size is not None and 0.5 * true <= size <= 1.5 * true for size in noisy)


class FakePlace:
    """Real processes, no cgroup; `doomed` commands are killed at once."""

    cgroup: Any = None

    def __init__(self, doomed: Sequence[str] = (), delay_s: float = 0.0) -> None:
        self.doomed = doomed
        self.delay_s = delay_s
        self.called: list[str] = []

    def enter(self) -> float:
        return 7.0

    def leave(self) -> None:
        return

    def agent(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        process = start_in(lambda pid: None, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if "agent" in self.doomed:
            process.kill()
        return process

    def call(self, argv: Sequence[str], intent: Intent, due_ns: int) -> CallEnd:
        name = Path(argv[-1]).stem
        self.called.append(name)
        time.sleep(self.delay_s)
        start = start_in(lambda pid: None, argv, stdin=subprocess.PIPE, bufsize=0)
        with start as process:
            if name in self.doomed:
                process.kill()
            tell_start(process, due_ns, self.delay_s * 1e3)
        return CallEnd(time.monotonic_ns(), waited_ms=1.0, layers=("files",))


def _play(tmp_path: Path, place: FakePlace, granularity: Granularity) -> SessionPlayer:
    (job,) = make_jobs([_trace()], [Priority.LOW], _options(granularity=granularity))
    start_ns = time.monotonic_ns() + 100_000_000
    player = SessionPlayer(job, place, speed=SPEED, start_ns=start_ns, folder=tmp_path)
    player.start()
    player.join(30)
    assert not player.is_alive()
    assert player.error is None
    return player


@pytest.mark.parametrize("granularity", list(Granularity))
def test_a_session_that_survives(tmp_path: Path, granularity: Granularity) -> None:
    player = _play(tmp_path, FakePlace(), granularity)
    result = player.result
    assert result.survived
    assert result.calls_lost == 0
    assert result.peak_memory_bytes == 20 * MB
    assert result.completion_s is not None
    assert 0.2 <= result.completion_s <= result.ended_s
    assert result.waited_ms == 8.0
    assert player.layers == {"files"}
    assert len(result.latencies_ms) >= 3


def test_a_killed_session(tmp_path: Path) -> None:
    result = _play(tmp_path, FakePlace(["t.0"]), Granularity.SESSION).result
    assert not result.survived
    assert result.completion_s is None
    assert result.calls_lost == 1


def test_a_killed_call_leaves_the_agent(tmp_path: Path) -> None:
    result = _play(tmp_path, FakePlace(["t.0"]), Granularity.TOOL).result
    assert not result.survived
    assert result.calls_lost == 1
    assert result.peak_memory_bytes == 5 * MB


def test_a_killed_agent_ends_the_session(tmp_path: Path) -> None:
    place = FakePlace(["agent"])
    result = _play(tmp_path, place, Granularity.TOOL).result
    assert not result.survived
    assert place.called == []
    assert result.calls_lost == 1


def test_a_late_call_moves_what_follows(tmp_path: Path) -> None:
    result = _play(tmp_path, FakePlace(delay_s=0.6), Granularity.TOOL).result
    assert result.survived
    assert result.completion_s is not None
    assert result.completion_s >= 0.075 + 0.6 + 0.075


def test_shares_are_handed_out_in_turn() -> None:
    shares = Shares(100)
    shares.take(60)
    got = threading.Event()

    def second() -> None:
        shares.take(500)  # more than there is: all of it
        got.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not got.wait(0.05)
    shares.give_back(60)
    assert got.wait(5)
    shares.close()
    shares.take(100)  # nobody waits after close
    thread.join()


def test_levels_are_the_samples_at_the_replays_speed(tmp_path: Path) -> None:
    _play(tmp_path, FakePlace(), Granularity.SESSION)
    levels = [line.split() for line in (tmp_path / "t.0.levels").read_text().splitlines()]
    assert [int(size) for _, size in levels] == [size for _, size in SAMPLES]
    assert [int(at) for at, _ in levels] == [int(at_s / SPEED * 1e9) for at_s, _ in SAMPLES]
