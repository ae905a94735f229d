# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of `memcg_ops`: when it is attached, whose line says what, how it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_memcg_ops import KernelHooks

from agentcgroup.bpf.memcg_ops import MemcgOps
from agentcgroup.daemon.config import Wish
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.memcg_hooks import MemcgHooks
from agentcgroup.daemon.records import CallRecord
from agentcgroup.enforce import memcg_ops as layer_module
from agentcgroup.errors import ConfigError, NotSupportedError
from agentcgroup.policy.delay import DelayTuning
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.types.limits import Limits
from agentcgroup.types.sessions import Mode
from agentcgroup.units import MIB

TUNING = DelayTuning(max_ms=100, burst_pct=16)
SECOND_NS = 1_000_000_000


class World:
    """One call in one session; time stands still until it is moved."""

    def __init__(self, hooks: KernelHooks) -> None:
        self.kernel = hooks
        self.now_ns = 100 * SECOND_NS
        self.session = SimpleNamespace(
            mode=Mode.ENFORCE, spec=SimpleNamespace(priority=Priority.LOW)
        )
        self.call = cast(CallRecord, SimpleNamespace(
            session="s", leaf=SimpleNamespace(id=7), limits=Limits(memory_high_bytes=64 * MIB),
            intent=Intent(), at_line_ns=0, placed_ns=self.now_ns, ending=None,
        ))  # fmt: skip
        self.core = cast(Core, SimpleNamespace(
            clock=SimpleNamespace(now_ns=lambda: self.now_ns), calls={"c": self.call},
            sessions={"s": self.session},
        ))  # fmt: skip

    def run(self, scenario: Callable[[MemcgHooks], None], wish: Wish = Wish.ON) -> MemcgHooks:
        async def main() -> MemcgHooks:
            hooks = MemcgHooks(self.core, TUNING)
            try:
                hooks.open(cast(Any, None), wish)
                scenario(hooks)
            finally:
                hooks.close()
            return hooks

        return asyncio.run(main())

    def start_bytes(self) -> int:
        return self.kernel.lines[7].start_bytes


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    reading, writing = os.pipe()
    hooks = KernelHooks()
    monkeypatch.setattr(hooks, "fileno", lambda: reading)
    monkeypatch.setattr(MemcgOps, "open", classmethod(lambda cls: hooks))
    monkeypatch.setattr(layer_module, "_prove", lambda hooks, root: None)
    yield World(hooks)
    os.close(reading)
    os.close(writing)


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cls: type) -> MemcgOps:
        raise NotSupportedError("nobody offers it: do something")

    monkeypatch.setattr(MemcgOps, "open", classmethod(refuse))


def test_off_is_off(world: World) -> None:
    def scenario(hooks: MemcgHooks) -> None:
        hooks.begin(world.call)
        assert hooks.layers() == [] and hooks.report() is None and hooks.missing == {}

    world.run(scenario, Wish.OFF)
    assert world.kernel.writes == 0 and not world.kernel.closed


def test_wanted_and_absent_is_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("agentcgroup"), "propagate", True)
    absent(monkeypatch)

    def scenario(hooks: MemcgHooks) -> None:
        hooks.begin(world.call)
        assert hooks.layers() == []
        assert hooks.missing == {"memcg_ops": "nobody offers it: do something"}

    world.run(scenario)
    assert [r.message for r in caplog.records] == [
        "memcg_ops is off, files and events go on: nobody offers it: do something"
    ]


def test_required_and_absent_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch)
    with pytest.raises(ConfigError) as refused:
        world.run(lambda hooks: None, Wish.REQUIRED)
    assert (refused.value.field, refused.value.value) == ("daemon.memcg_ops", "required")
    assert "nobody offers it: do something" in refused.value.remedy


def test_a_line_follows_the_grant_and_ends_with_the_call(world: World) -> None:
    def scenario(hooks: MemcgHooks) -> None:
        assert hooks.layers() == ["memcg_ops"]
        hooks.begin(world.call)
        assert world.start_bytes() == 65 * MIB  # the least credit: a 64th
        world.call.limits = Limits(memory_high_bytes=128 * MIB)
        hooks.granted(world.call)
        assert world.start_bytes() == 130 * MIB
        world.call.limits = Limits()
        hooks.granted(world.call)
        assert world.kernel.lines == {}
        world.call.limits = Limits(memory_high_bytes=64 * MIB)
        hooks.granted(world.call)
        hooks.end(world.call)
        assert world.kernel.lines == {}

    hooks = world.run(scenario)
    assert world.kernel.closed and hooks.layers() == []


def test_credit_is_earned_by_calm_and_spent_at_the_line(world: World) -> None:
    def scenario(hooks: MemcgHooks) -> None:
        hooks.begin(world.call)
        world.now_ns += 10 * SECOND_NS
        hooks._tick()
        assert world.start_bytes() == 64 * MIB + int(64 * MIB * 0.16)
        assert world.kernel.until_ns > world.now_ns
        world.call.at_line_ns = world.now_ns
        hooks._tick()
        assert world.start_bytes() == 65 * MIB

    world.run(scenario)


@pytest.mark.parametrize("change", ["mode", "priority"])
def test_who_is_only_observed_or_has_high_priority_has_no_line(world: World, change: str) -> None:
    def scenario(hooks: MemcgHooks) -> None:
        hooks.begin(world.call)
        assert 7 in world.kernel.lines
        if change == "mode":
            world.session.mode = Mode.OBSERVE
        else:
            world.session.spec.priority = Priority.HIGH
        hooks._tick()
        assert world.kernel.lines == {}

    world.run(scenario)


def test_lost_under_load_it_is_missing_and_calls_go_on(world: World) -> None:
    def scenario(hooks: MemcgHooks) -> None:
        hooks.begin(world.call)
        world.kernel.failing = True
        world.call.limits = Limits(memory_high_bytes=96 * MIB)
        hooks.granted(world.call)
        assert hooks.layers() == [] and hooks.report() is None
        assert "Argument list too long" in hooks.missing["memcg_ops"]
        hooks.granted(world.call)
        hooks.end(world.call)

    world.run(scenario)
    assert world.kernel.closed
