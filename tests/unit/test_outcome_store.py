# SPDX-License-Identifier: Apache-2.0
"""Ended calls on disk: found again, bounded, and no crash makes them unreadable."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentcgroup.daemon.outcomes import OutcomeStore
from agentcgroup.types.outcomes import Outcome, Reason


def outcome(number: int, session: str = "s", age_s: float = 0.0) -> Outcome:
    return Outcome(
        call=f"c{number}", session=session, reason=Reason.COMPLETED, exit_code=0,
        ended_epoch_s=time.time() - age_s,
    )  # fmt: skip


@contextmanager
def opened(path: Path, keep: int = 10, keep_hours: float = 24.0) -> Iterator[OutcomeStore]:
    store = OutcomeStore(path, keep, keep_hours)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outcomes.jsonl"


def names(store: OutcomeStore, session: str | None = None, limit: int = 100) -> list[str]:
    return [o.call for o in store.newest(session, limit)]


def test_found_by_call_and_by_key_after_a_reload(path: Path) -> None:
    with opened(path) as store:
        for number in range(3):
            store.append(outcome(number, session=f"s{number % 2}"), f"key{number}")
        told = store.get("c1")
    with opened(path) as store:
        assert store.get("c1") == told
        assert store.by_key("s1", "key1") == told
        assert store.by_key(None, "key1") == told
        assert store.by_key("s0", "key1") is None
        assert store.get("c9") is None and store.by_key(None, "key9") is None
        assert names(store) == ["c2", "c1", "c0"]
        assert names(store, "s0") == ["c2", "c0"]
        assert names(store, limit=1) == ["c2"]


def test_the_newest_use_of_a_key_wins(path: Path) -> None:
    with opened(path) as store:
        store.append(outcome(1, session="a"), "key")
        store.append(outcome(2, session="b"), "key")
        found = store.by_key(None, "key")
        assert found is not None and found.call == "c2"
        found = store.by_key("a", "key")
        assert found is not None and found.call == "c1"


def test_only_the_newest_are_kept(path: Path) -> None:
    with opened(path, keep=3) as store:
        for number in range(5):
            store.append(outcome(number), f"key{number}")
        assert names(store) == ["c4", "c3", "c2"]
        assert store.get("c1") is None and store.by_key("s", "key1") is None


def test_what_is_old_is_not_listed(path: Path) -> None:
    with opened(path, keep_hours=1.0) as store:
        store.append(outcome(1, age_s=7200), "a")
        store.append(outcome(2), "b")
        assert names(store) == ["c2"]
    with opened(path, keep_hours=1.0) as store:
        assert names(store) == ["c2"]


def test_the_file_is_rewritten_beyond_twice_keep(path: Path) -> None:
    with opened(path, keep=5) as store:
        for number in range(10):
            store.append(outcome(number), f"key{number}")
        assert len(path.read_text().splitlines()) == 10
        store.append(outcome(10), "key10")
        lines = path.read_text().splitlines()
        assert [json.loads(line)["outcome"]["call"] for line in lines] == [
            f"c{n}" for n in range(6, 11)
        ]
        store.append(outcome(11), "key11")  # into the new file, not the replaced one
        assert len(path.read_text().splitlines()) == 6
    assert [p.name for p in path.parent.iterdir()] == ["outcomes.jsonl"]
    with opened(path, keep=5) as store:
        assert names(store) == ["c11", "c10", "c9", "c8", "c7"]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_left_out(
    path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash during append leaves part of a line; what follows is not glued to it."""
    with opened(path) as store:
        for number in range(3):
            store.append(outcome(number), f"key{number}")
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(path) as store:
        kept = ["c1", "c0"] if cut > 1 else ["c2", "c1", "c0"]
        assert names(store) == kept
        store.append(outcome(7), "key7")
    with opened(path) as store:
        assert names(store) == ["c7", *kept]
        assert store.by_key("s", "key7") is not None
    assert ("damaged" in caplog.text) == (cut > 1)


@pytest.mark.parametrize(
    "line", [b"\x00" * 50, b"[]", b'{"key": 1}', b'{"key":"k","outcome":5}', b"\xff\xfe", b"null"]
)
def test_damage_in_the_middle_costs_that_line_only(path: Path, line: bytes) -> None:
    with opened(path) as store:
        store.append(outcome(1), "a")
    path.write_bytes(path.read_bytes() + line + b"\n")
    with opened(path) as store:
        assert names(store) == ["c1"]
        store.append(outcome(2), "b")
    with opened(path) as store:
        assert names(store) == ["c2", "c1"]
    assert line not in path.read_bytes().split(b"\n")


def test_the_file_is_the_daemons_own(path: Path) -> None:
    with opened(path, keep=2) as store:
        assert path.stat().st_mode & 0o777 == 0o600
        for number in range(9):
            store.append(outcome(number), f"key{number}")
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_costs_durability_only(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(path) as store:
        store.append(outcome(1), "a")
        monkeypatch.setattr(os, "write", full)
        store.append(outcome(2), "b")
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:30]))
        store.append(outcome(3), "c")
        monkeypatch.setattr(os, "write", real)
        store.append(outcome(4), "d")
        assert names(store) == ["c4", "c3", "c2", "c1"]
    assert "c2" in caplog.text and "No space left" in caplog.text and "c3" in caplog.text
    with opened(path) as store:
        assert names(store) == ["c4", "c1"]
