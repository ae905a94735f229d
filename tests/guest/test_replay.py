# SPDX-License-Identifier: Apache-2.0
"""Replay on a real kernel: who survives under which policy, and nothing stays behind."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcgroup.replay.compare import compare
from agentcgroup.replay.driver import run_policy
from agentcgroup.replay.options import DeclaredIntent, Granularity, Policy, ReplayOptions
from agentcgroup.replay.record import SessionRecording
from agentcgroup.trace.convert import records_of
from agentcgroup.trace.format import TraceWriter
from agentcgroup.trace.jobs import SessionJob, make_jobs
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.model import CallSpan, SessionTrace, split_calls
from agentcgroup.types.intents import Priority

pytestmark = [pytest.mark.guest, pytest.mark.long]

MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
# Two sessions of 100 MiB peak and 16 MiB base each: 160 MiB hold one peak, never two.
SAMPLES = ((0.0, 20 * MIB), (1.0, 20 * MIB), (2.0, 100 * MIB), (5.0, 100 * MIB), (6.0, 20 * MIB))
OPTIONS = ReplayOptions(total_memory_bytes=160 * MIB, speed=2, base_memory_bytes=16 * MIB)


def _trace(name: str) -> SessionTrace:
    calls, agent = split_calls(SAMPLES, [CallSpan(1.5, 5.5, "Bash", "make")])
    return SessionTrace(name, SAMPLES, calls, agent)


def _jobs(options: ReplayOptions = OPTIONS) -> list[SessionJob]:
    return make_jobs([_trace("a"), _trace("b")], [Priority.HIGH, Priority.LOW], options)


def _leftovers() -> list[str]:
    return [path.name for path in ROOT.iterdir() if path.name.startswith("agentcgroup-re")]


def test_none_loses_what_alone_keeps() -> None:
    none, alone = sorted(
        compare(_jobs(), [Policy.NONE, Policy.ALONE], 1, OPTIONS), key=lambda r: -len(r.policy)
    )[::-1]
    # Which one the kernel kills, or whether both, is its lottery.
    assert none.survivors < 2
    lost = [s for s in none.sessions if not s.survived]
    assert none.kills == len(lost)
    assert all(s.completion_s is None and len(s.kill_times_s) == 1 for s in lost)
    assert alone.survivors == 2
    assert alone.kills == 0
    for session in alone.sessions:
        assert session.completion_s is not None
        assert 3.0 <= session.completion_s <= 20
        assert session.peak_memory_bytes == 100 * MIB
        assert session.cgroup_peak_bytes is not None
        assert session.cgroup_peak_bytes >= 116 * MIB
        assert len(session.latencies_ms) == 2
        assert len(session.timeline) > 20
    assert _leftovers() == []


@pytest.mark.parametrize(
    ("policy", "survivors"),
    [(Policy.STATIC, 0), (Policy.STATIC_PEAK, 2), (Policy.STATIC_MEAN, 0)],
)
def test_static_shares(policy: Policy, survivors: int) -> None:
    result = run_policy(policy, _jobs(), OPTIONS)
    assert result.survivors == survivors
    if policy is Policy.STATIC_PEAK:
        assert max(s.waited_ms or 0 for s in result.sessions) >= 2500
    assert _leftovers() == []


def test_tool_granularity_keeps_the_agent_when_a_call_is_killed() -> None:
    options = ReplayOptions(
        total_memory_bytes=170 * MIB, speed=2, base_memory_bytes=16 * MIB,
        granularity=Granularity.TOOL,
    )  # fmt: skip
    alone = run_policy(Policy.ALONE, _jobs(options), options)
    assert alone.survivors == 2
    none = run_policy(Policy.NONE, _jobs(options), options)
    assert none.survivors < 2
    assert none.kills >= 1
    assert _leftovers() == []


def test_an_interrupt_removes_everything(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as writer:
        for record in records_of(_trace("a")):
            writer.write(record)
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", "from agentcgroup.cli.trace import app; app()", "replay",
             str(path), "--policy", "none", "--total-memory", "300M", "--speed", "0.1"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not _leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(30) != 0
        assert _leftovers() == []
        assert not _workers()


def _workers() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"agentcgroup-replay" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_recording_a_session_call_by_call(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    hold = "import time; b = b'x' * (60 << 20); time.sleep(1)"
    with SessionRecording(path, session="s", about="test") as recording:
        assert recording.call([sys.executable, "-c", hold], text="hold 60 MiB") == 0
        time.sleep(0.3)
        assert recording.call(["/bin/sh", "-c", "exit 3"]) == 3
        assert recording.call(["/bin/sh", "-c", "kill -9 $$"]) == 137
    trace = load_session_trace(path)
    assert trace.calls[0].command == "hold 60 MiB"
    assert len(trace.calls) == 3
    assert 60 * MIB <= trace.peak_bytes < 120 * MIB
    assert trace.calls[0].peak_bytes >= 50 * MIB
    assert len(trace.samples) >= 10
    assert _leftovers() == []


def test_the_daemon_keeps_everybody_when_it_is_told_the_peaks() -> None:
    options = dataclasses.replace(OPTIONS, intent=DeclaredIntent.PEAK)
    result = run_policy(Policy.AGENTCGROUP, _jobs(options), options)
    assert result.survivors == 2
    assert result.kills == 0
    assert "files" in result.layers
    assert max((s.waited_ms or 0) + (s.frozen_ms or 0) for s in result.sessions) >= 1000
    assert _leftovers() == []
