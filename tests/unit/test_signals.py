# SPDX-License-Identifier: Apache-2.0
"""Words that a call met its line, and looks that moved the line before them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from core_support import a_call, a_session, on_a_core

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.records import CallRecord
from agentcgroup.daemon.signals import Signals
from agentcgroup.enforce import files as enforce
from agentcgroup.types import inputs as i
from agentcgroup.types.actions import Because, Code, SetGrant
from agentcgroup.units import MIB


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(enforce, "wake", lambda leaf: names.append(leaf.path.rsplit("/", 1)[-1]))
    return names


def look(core: Core, record: CallRecord, current_bytes: int) -> None:
    record.last_current_bytes = current_bytes
    core.feed(i.CallSample(core.clock.now_ns(), record.name, current_bytes))


def test_who_met_a_line_that_a_look_has_moved_meanwhile_is_woken(woken: list[str]) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        signals = Signals(core)
        line = record.limits.memory_high_bytes or 0
        look(core, record, line - MIB)
        assert (record.limits.memory_high_bytes or 0) > line + MIB
        assert woken == [], "as far as the daemon knows nobody sleeps"
        signals._at_line(record, core.clock.now_ns(), line + MIB)
        assert woken == ["c1"]
        signals._at_line(record, core.clock.now_ns(), line + MIB)
        assert woken == ["c1"], "once for each raise that nobody had asked for"

    on_a_core(check)


def test_who_is_seen_at_its_line_is_woken_by_the_raise_whether_it_was_heard_or_not(
    woken: list[str],
) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        line = record.limits.memory_high_bytes or 0
        look(core, record, line + MIB)
        assert (record.limits.memory_high_bytes or 0) > line + MIB
        assert woken == ["c1"]

    on_a_core(check)


def test_a_wake_that_is_refused_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(leaf: FakeCgroup) -> None:
        raise OSError(24, "too many open files")

    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        line = record.limits.memory_high_bytes or 0
        look(core, record, line - MIB)
        monkeypatch.setattr(enforce, "wake", refuse)
        Signals(core)._at_line(record, core.clock.now_ns(), line + MIB)
        assert record.owed

    on_a_core(check)


def test_who_asks_at_its_line_is_woken_by_the_raise_itself(woken: list[str]) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        line = record.limits.memory_high_bytes or 0
        Signals(core)._at_line(record, core.clock.now_ns(), line)
        assert (record.limits.memory_high_bytes or 0) > line
        assert woken == ["c1"]

    on_a_core(check)


def test_who_policy_holds_frozen_is_not_woken(woken: list[str]) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        line = record.limits.memory_high_bytes or 0
        look(core, record, line - MIB)
        record.frozen_since_ns = core.clock.now_ns()
        Signals(core)._at_line(record, core.clock.now_ns(), line + MIB)
        assert woken == []

    on_a_core(check)


def test_a_raise_that_a_worker_has_undone_is_written_again_and_wakes(
    woken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        session, high = record.session, record.limits.memory_high_bytes or 0
        assert record.leaf is not None
        because = Because(Code.UNUSED, "a story")
        begun, may_write = threading.Event(), threading.Event()
        write = enforce.set_grant

        def late_when_lower(leaf: FakeCgroup, grant_bytes: int | None) -> None:
            if grant_bytes == high - MIB:
                begun.set()
                may_write.wait(10)
            write(leaf, grant_bytes)

        monkeypatch.setattr(enforce, "set_grant", late_when_lower)
        write(record.leaf, high)
        core._set_grant(SetGrant(session, "c1", high - MIB, because))
        await asyncio.to_thread(begun.wait, 10)
        core._set_grant(SetGrant(session, "c1", high + MIB, because))
        woken.clear()
        may_write.set()
        for _ in range(1000):
            if woken:
                break
            await asyncio.sleep(0.01)
        assert woken == ["c1"]
        assert record.leaf.read(files.MEMORY_HIGH) == str(high + MIB)
        assert not record.owed

    on_a_core(check)
