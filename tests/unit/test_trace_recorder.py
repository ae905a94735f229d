# SPDX-License-Identifier: Apache-2.0
"""The recorder over fake cgroup texts, and conversion to and from the own format."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentcgroup.clock import FakeClock
from agentcgroup.trace.convert import records_of
from agentcgroup.trace.format import TraceWriter, read_trace
from agentcgroup.trace.load import load_session_trace
from agentcgroup.trace.recorder import Recorder, Sampler

SMALL = Path(__file__).parents[1] / "data-small"


class Texts:
    """A cgroup as a dictionary of its files."""

    def __init__(self, **files: str) -> None:
        self.files = {name.replace("__", "."): text for name, text in files.items()}

    def try_read(self, file: str) -> str | None:
        return self.files.get(file)


def test_what_only_moves_when_something_runs_is_read_when_something_ran() -> None:
    reads: list[str] = []

    class Counted(Texts):
        def try_read(self, file: str) -> str | None:
            reads.append(file)
            return super().try_read(file)

    source = Counted(
        memory__current="4096", memory__stat="anon 1", cpu__stat="usage_usec 5",
        pids__current="2", cpu__pressure="some avg10=0.00 total=7",
    )  # fmt: skip
    sampler = Sampler(source)
    first = sampler.look(0)
    assert first["anon_bytes"] == 1 and first["cpu_some_us"] == 7 and first["pids_count"] == 2
    reads.clear()
    still = sampler.look(100_000_000)
    assert "memory.stat" not in reads and "cpu.pressure" not in reads
    assert still["anon_bytes"] == 1 and "cpu_some_us" not in still
    source.files |= {"cpu.stat": "usage_usec 6", "memory.stat": "anon 9"}
    assert sampler.look(200_000_000)["anon_bytes"] == 9
    assert "cpu_some_us" in sampler.look(600_000_000)
    assert "cpu_some_us" in sampler.look(600_000_001, whole=True)


def test_fields_of_missing_files_are_left_out() -> None:
    assert Sampler(Texts()).look(0) == {}
    full = Texts(
        memory__current="4096\n",
        memory__stat="anon 100\nfile 50\ninactive_file 7\nslab 3",
        cpu__stat="usage_usec 12\nuser_usec 5",
        pids__current="2",
    )
    assert Sampler(full).look(0) == {
        "memory_current_bytes": 4096,
        "anon_bytes": 100,
        "file_bytes": 50,
        "inactive_file_bytes": 7,
        "cpu_usage_us": 12,
        "pids_count": 2,
    }


def test_io_and_pressure_are_totals() -> None:
    full = Texts(
        io__stat="8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=5 wbytes=0 dios=x",
        memory__pressure="some avg10=0.00 avg60=0.00 avg300=0.00 total=17\nfull avg10=0.00 total=3",
        cpu__pressure="some avg10=1.00 total=9\ngarbage\nfull total=",
    )
    assert Sampler(full).look(0) == {
        "io_read_bytes": 105,
        "io_write_bytes": 7,
        "memory_some_us": 17,
        "memory_full_us": 3,
        "cpu_some_us": 9,
    }
    assert Sampler(Texts(io__stat="")).look(0) == {}


def test_records_of_another_are_passed_on_and_their_calls_sampled(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    clock = FakeClock(1000)
    with TraceWriter(path) as writer:
        recorder = Recorder(writer, "s", Texts(memory__current="100"), now_ns=clock.now_ns)
        recorder.note({"t_ns": 900, "kind": "call_begin", "session": "s", "call": "c1"})
        recorder.watch("c1", Texts(memory__current="40"))
        recorder.sample()
        recorder.unwatch("c1")
        recorder.note({"t_ns": 990, "kind": "call_end", "session": "s", "call": "c1"})
        recorder.stop()
    records = read_trace(path).records
    assert [(r["kind"], r.get("call"), r["t_ns"]) for r in records] == [
        ("call_begin", "c1", 900), ("sample", None, 1000), ("sample", "c1", 1000),
        ("call_end", "c1", 990), ("sample", None, 1000), ("end", None, 1000),
    ]  # fmt: skip


def test_a_session_with_a_call(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    clock = FakeClock(1000)
    session, leaf = Texts(memory__current="100"), Texts(memory__current="40", memory__peak="90")
    with TraceWriter(path) as writer:
        recorder = Recorder(writer, "s", session, now_ns=clock.now_ns)
        recorder.about(about="test")
        recorder.sample()
        clock.advance_ns(10)
        recorder.begin("c1", leaf, tool="Bash", command="make")
        recorder.sample()
        clock.advance_ns(10)
        recorder.end("c1", exit_code=2)
        recorder.stop()
    records = read_trace(path).records
    assert [(r["kind"], r.get("call")) for r in records] == [
        ("session", None),
        ("sample", None),
        ("call_begin", "c1"),
        ("sample", None),
        ("sample", "c1"),
        ("sample", "c1"),
        ("call_end", "c1"),
        ("sample", None),
        ("end", None),
    ]
    end = records[-3]
    assert (end["exit_code"], end["memory_peak_bytes"], end["t_ns"]) == (2, 90, 1020)
    assert load_session_trace(path).calls[0].command == "make"


def test_the_thread_samples_until_stopped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as writer:
        recorder = Recorder(
            writer, "s", Texts(memory__current="5"), now_ns=time.monotonic_ns, interval_ms=1
        )
        recorder.start()
        deadline = time.monotonic() + 10
        while writer.written_count < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        recorder.stop()
    assert len(load_session_trace(path).samples) >= 5


def test_what_stops_the_thread_reaches_the_owner(tmp_path: Path) -> None:
    class Broken(Texts):
        def try_read(self, file: str) -> str | None:
            raise OSError(5, "disk on fire")

    with TraceWriter(tmp_path / "t.jsonl") as writer:
        recorder = Recorder(writer, "s", Broken(), now_ns=time.monotonic_ns, interval_ms=1)
        recorder.start()
        recorder.join(10)
        with pytest.raises(OSError, match="disk on fire"):
            recorder.stop()


def test_an_imported_session_survives_the_own_format(tmp_path: Path) -> None:
    first = load_session_trace(SMALL / "agentcgroup-task")
    path = tmp_path / "t.jsonl.gz"
    with TraceWriter(path) as writer:
        for record in records_of(first):
            writer.write(record)
    second = load_session_trace(path)
    assert second.name == first.name
    assert second.step_bytes == first.step_bytes == 0
    assert [size for _, size in second.samples] == [size for _, size in first.samples]
    assert second.duration_s == pytest.approx(first.duration_s)
    assert [(c.tool, c.command, c.peak_bytes) for c in second.calls] == [
        (c.tool, c.command, c.peak_bytes) for c in first.calls
    ]
    assert [total for _, total in second.cpu_samples] == pytest.approx(
        [total for _, total in first.cpu_samples]
    )
