# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells of live sessions and calls, on the in-memory tree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_support import a_call, a_session, on_a_core

from agentcgroup.cgroupfs.fake import FakeCgroup
from agentcgroup.daemon.call_reports import live_calls, live_info
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.session_reports import READ_AT_ONCE, session_list
from agentcgroup.types.actions import Because, Code
from agentcgroup.types.sessions import Mode
from agentcgroup.units import MIB

LAYERS = ["files", "events"]


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
