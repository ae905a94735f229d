# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells of live sessions and calls, on the in-memory tree."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon.call_reports import live_calls, live_info
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.records import CallRecord, ProcessRef, SessionRecord
from agentcgroup.daemon.session_reports import READ_AT_ONCE, session_list
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.types import inputs as i
from agentcgroup.types.actions import Because, Code
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.types.sessions import Mode, SessionSpec
from agentcgroup.units import MIB

Check = Callable[[Core, FakeCgroup], Awaitable[None]]
LAYERS = ["files", "events"]


def on_a_core(check: Check) -> None:
    async def run() -> None:
        core = Core(4096 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        try:
            await check(core, FakeCgroup.delegated(FakeKernel()))
        finally:
            core.close()

    asyncio.run(run())


def a_session(core: Core, root: FakeCgroup, name: str, mode: Mode = Mode.ENFORCE) -> SessionRecord:
    cgroup = root.create(name)
    for parent in (root, cgroup):
        parent.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    spec = SessionSpec(name=name, memory=1024 * MIB)
    record = SessionRecord(
        name, spec, mode, cgroup, cgroup.create("agent"), cgroup.create("tools"), 1.0
    )
    record.tools.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    core.sessions[name] = record
    now = core.clock.now_ns()
    core.feed(i.SessionBegin(now, name, Priority.NORMAL, spec.memory, 64 * MIB, mode))
    return record


def a_call(core: Core, session: SessionRecord, name: str, *, placed: bool = True) -> CallRecord:
    record = CallRecord(
        name, session.name, key=name, intent=Intent(memory=32 * MIB, label="a label"),
        owner=ProcessRef(1, 1), child=None, begun_ns=core.clock.now_ns() - 2_000_000_000,
        began_epoch_s=1.0,
    )  # fmt: skip
    session.calls[name] = core.calls[name] = record
    if placed:
        core.feed(i.CallBegin(core.clock.now_ns(), session.name, name, record.intent))
        record.leaf = session.tools.create(name)
        record.waited_ms = 500.0
    return record


def test_a_running_call_has_grant_cap_layers_and_figures() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        info = live_info(core, record, LAYERS, figures=True)
        assert (info.state, info.layers, info.waited_ms) == ("running", LAYERS, 500.0)
        assert info.grant_bytes is not None and info.cap_bytes is not None
        assert 32 * MIB <= info.grant_bytes <= info.cap_bytes <= 960 * MIB
        assert info.age_s is not None and 2 <= info.age_s < 60
        assert info.cpu_s is not None and info.throttled_ms is not None
        assert info.pressure_avg10_pct is not None and info.frozen_ms == 0
        cheap = live_info(core, record, LAYERS, figures=False)
        assert cheap.cpu_s is cheap.throttled_ms is cheap.pressure_avg10_pct is None
        assert cheap.memory_current_bytes is not None

    on_a_core(check)


def test_a_frozen_call_says_since_when_and_why() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s"), "c1")
        record.because = Because(Code.NO_MEMORY_FREE, "others hold the memory")
        assert live_info(core, record, LAYERS, figures=False).because is None
        record.frozen_ns = 1_000_000_000
        record.frozen_since_ns = core.clock.now_ns() - 2_000_000_000
        info = live_info(core, record, LAYERS, figures=False)
        assert (info.state, info.because) == ("frozen", "others hold the memory")
        assert info.frozen_ms is not None and 3000 <= info.frozen_ms < 60000

    on_a_core(check)


def test_a_queued_call_waits_up_to_now_and_holds_nothing() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        session = a_session(core, root, "s")
        info = live_info(core, a_call(core, session, "c1", placed=False), LAYERS, figures=True)
        assert (info.state, info.layers, info.grant_bytes) == ("queued", [], None)
        assert info.waited_ms is not None and info.waited_ms >= 2000
        assert info.cpu_s is None and info.memory_current_bytes is None

    on_a_core(check)


def test_an_observed_call_is_held_by_no_layer() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        record = a_call(core, a_session(core, root, "s", Mode.OBSERVE), "c1")
        assert live_info(core, record, LAYERS, figures=False).layers == []

    on_a_core(check)


@pytest.mark.parametrize("figures", [True, False])
def test_sessions_have_figures_for_who_asks(figures: bool) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        for number in range(READ_AT_ONCE + 1):
            a_session(core, root, f"s{number}")
        found = await session_list(core, figures=figures)
        assert len(found) == READ_AT_ONCE + 1
        for info in found:
            assert (info.cpu_s is not None) == (info.throttled_ms is not None) == figures

    on_a_core(check)


def test_others_have_their_turn_while_many_calls_are_read() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        session, other = a_session(core, root, "s"), a_session(core, root, "t")
        for number in range(3 * READ_AT_ONCE):
            a_call(core, session, f"c{number}")
        a_call(core, other, "elsewhere")
        seen: list[Any] = []

        async def between() -> None:
            core.calls.pop("c0")  # the oldest ends while the newest are read
            seen.append("had a turn")

        turn = asyncio.create_task(between())
        found = await live_calls(core, "s", LAYERS, limit=1000, figures=True)
        await turn
        assert seen == ["had a turn"]
        names = [info.call for info in found]
        assert names == [f"c{n}" for n in range(3 * READ_AT_ONCE - 1, 0, -1)]
        assert len(await live_calls(core, None, LAYERS, limit=2, figures=False)) == 2

    on_a_core(check)
