# SPDX-License-Identifier: Apache-2.0
"""Following a live session: whose records are written, which leaves are sampled, when it ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcgroup.cgroupfs.handle import Cgroup
from agentcgroup.errors import DaemonUnavailableError
from agentcgroup.replay import record
from agentcgroup.trace.format import read_trace
from agentcgroup.trace.load import load_session_trace

MIB = 1 << 20


class Group:
    """A cgroup as it looks to the recorder: texts, children, and an end."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.there = True
        self.closed = False
        self.leaf: Group | None = None

    def open_file(self, file: str, flags: int) -> int:
        if file != "memory.current":
            raise FileNotFoundError(errno.ENOENT, "no such file", file)
        fd = os.memfd_create(file)
        os.write(fd, str(self.memory).encode())
        return fd

    def child(self, name: str) -> Group:
        if name == "tools":
            return self
        if self.leaf is None:
            raise FileNotFoundError(name)
        return self.leaf

    def exists(self) -> bool:
        return self.there

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Daemon:
    """What `record_session` asks of a client; its events are told by a script."""

    def __init__(self, script: Iterator[dict[str, Any]]) -> None:
        self._script = script

    def session(self, name: str) -> Any:
        return SimpleNamespace(cgroup=f"/sys/fs/cgroup/x/{name}")

    def events(self, session: str, *, kinds: list[str]) -> Iterator[dict[str, Any]]:
        assert "sample" not in kinds, "samples are the recorder's own"
        return self._script


def play(
    monkeypatch: pytest.MonkeyPatch, out: Path, group: Group, script: Iterator[dict[str, Any]]
) -> int:
    monkeypatch.setattr(record, "Client", lambda socket: Daemon(script))
    monkeypatch.setattr(Cgroup, "open", classmethod(lambda cls, path: group))
    stop = threading.Event()
    return record.record_session("s", out, interval_ms=10, socket=None, stop=stop)


def test_calls_are_the_daemons_and_samples_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, group = tmp_path / "t.jsonl", Group(100 * MIB)
    leaf = Group(40 * MIB)

    def script() -> Iterator[dict[str, Any]]:
        import time

        about = {"session": "s", "call": "c1"}
        group.leaf = leaf
        yield {"t_ns": time.monotonic_ns(), "kind": "call_begin", **about}
        time.sleep(0.15)
        yield {"t_ns": time.monotonic_ns(), "kind": "call_end", **about, "exit_code": 0}
        group.leaf = None
        yield {"t_ns": time.monotonic_ns(), "kind": "call_begin", "session": "s", "call": "c2"}
        yield {"t_ns": time.monotonic_ns(), "kind": "call_end", "session": "s", "call": "c2"}
        group.there = False
        yield {"t_ns": time.monotonic_ns(), "kind": "session", "session": "s", "event": "end"}

    assert play(monkeypatch, out, group, script()) == 2
    trace = read_trace(out)
    assert trace.damage == [] and trace.records[-1]["kind"] == "end"
    samples = [r for r in trace.records if r["kind"] == "sample"]
    assert {r["memory_current_bytes"] for r in samples if r.get("call") == "c1"} == {40 * MIB}
    assert not any(r.get("call") == "c2" for r in samples), "it was over before it was found"
    assert leaf.closed and group.closed
    assert len(load_session_trace(out).calls) == 2


def test_a_daemon_that_goes_away_is_told_and_what_came_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, group = tmp_path / "t.jsonl", Group(MIB)

    def script() -> Iterator[dict[str, Any]]:
        yield {"t_ns": 1, "kind": "step", "session": "s", "step": 0}
        raise DaemonUnavailableError("gone")

    with pytest.raises(DaemonUnavailableError):
        play(monkeypatch, out, group, script())
    kinds = [r["kind"] for r in read_trace(out).records]
    assert "step" in kinds and kinds[-1] == "end"
