# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of `sched_ext`: when it is attached, whose policy is what, how it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_fake import FakeScheduler

from agentcgroup.bpf.sched import Scheduler
from agentcgroup.bpf.sched_maps import ExitInfo, Policy
from agentcgroup.daemon import cpu_scheduler
from agentcgroup.daemon.config import Config
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.cpu_scheduler import CpuScheduler
from agentcgroup.daemon.records import CallRecord
from agentcgroup.enforce import sched_ext as layer_module
from agentcgroup.errors import ConfigError, NotSupportedError
from agentcgroup.types.intents import Intent, Latency, Priority
from agentcgroup.types.sessions import Mode

SECOND_NS = 1_000_000_000
SESSION, LEAF, BACKGROUND = 6, 7, 8
RESTART = ExitInfo("unregistered from the main kernel", "cpu 1 going offline", True)


class World:
    """One call in one session; time stands still until it is moved."""

    def __init__(self) -> None:
        self.scheduler = FakeScheduler()
        self.opened: list[bool] = []
        self.refusal: str | None = None
        self.now_ns = 100 * SECOND_NS
        self.call = cast(CallRecord, SimpleNamespace(
            session="s", leaf=SimpleNamespace(id=LEAF), intent=Intent(latency=Latency.BATCH),
            ending=None,
        ))  # fmt: skip
        self.session = SimpleNamespace(
            mode=Mode.ENFORCE, spec=SimpleNamespace(priority=Priority.LOW),
            cgroup=SimpleNamespace(id=SESSION), background=None, calls={"c": self.call},
        )  # fmt: skip
        self.core = cast(Core, SimpleNamespace(
            clock=SimpleNamespace(now_ns=lambda: self.now_ns), sessions={"s": self.session},
        ))  # fmt: skip
        self.root = cast(Any, SimpleNamespace(path="/sys/fs/cgroup/a.scope/tree"))

    def open(self, pins: object, timing: object, *, gate: bool) -> FakeScheduler:
        self.opened.append(gate)
        if self.refusal is not None:
            raise NotSupportedError(self.refusal)
        if self.scheduler.closed:
            self.scheduler = FakeScheduler()
        self.scheduler.has_gate = gate and self.scheduler.has_gate
        return self.scheduler

    def run(self, scenario: Callable[[CpuScheduler], Any], **daemon: Any) -> CpuScheduler:
        config = Config.model_validate({"daemon": {"cpu_layer": "sched_ext", **daemon}})

        async def main() -> CpuScheduler:
            cpu = CpuScheduler(self.core, config)
            try:
                cpu.open(self.root)
                found = scenario(cpu)
                if found is not None:
                    await found
            finally:
                cpu.close()
            return cpu

        return asyncio.run(main())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(Scheduler, "open", made.open)
    monkeypatch.setattr(layer_module, "_prove", lambda scheduler, root: None)
    monkeypatch.setattr(layer_module, "_pins", lambda owner: None)
    monkeypatch.setattr(cpu_scheduler, "_REATTACH_AFTER_S", 0.0)
    monkeypatch.setattr(logging.getLogger("agentcgroup"), "propagate", True)
    return made


@pytest.mark.parametrize("cpu_layer", ["auto", "files"])
def test_not_asked_for_it_is_not_touched(world: World, cpu_layer: str) -> None:
    def scenario(cpu: CpuScheduler) -> None:
        cpu.begin(world.call)
        assert cpu.layers() == cpu.memory_layers() == [] and cpu.missing == {}
        assert cpu.report()["by"] == "kernel" and cpu_layer in cpu.report()["why"]
        assert cpu.figures(world.call) == {}

    world.run(scenario, cpu_layer=cpu_layer)
    assert world.opened == []


def test_wanted_and_absent_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.refusal = "the kernel has none"

    def scenario(cpu: CpuScheduler) -> None:
        cpu.begin(world.call)
        assert cpu.layers() == [] and cpu.missing == {"sched_ext": "the kernel has none"}
        assert cpu.report()["why"] == "the kernel has none"

    world.run(scenario)
    assert [r.message for r in caplog.records] == [
        "sched_ext is off, cpu.weight and cpu.max in files go on: the kernel has none"
    ]


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"cpu_require": True}, "daemon.cpu_layer", "sched_ext"),
        ({"memory_layers": "files,gate"}, "daemon.memory_layers", "files,gate"),
    ],
)
def test_required_and_absent_is_refused(
    world: World, settings: dict[str, Any], field: str, value: str
) -> None:
    world.refusal = "another scheduler is loaded: other"
    with pytest.raises(ConfigError) as refused:
        world.run(lambda cpu: None, **settings)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert "another scheduler is loaded: other" in refused.value.remedy


def test_a_gate_that_is_named_must_be_there(world: World) -> None:
    world.scheduler = FakeScheduler(gate=False)
    with pytest.raises(ConfigError) as refused:
        world.run(lambda cpu: None, memory_layers="files,gate")
    assert "the kernel has no function" in refused.value.remedy and world.scheduler.closed


def test_a_gate_that_is_not_there_is_missing_alone(world: World) -> None:
    world.scheduler = FakeScheduler(gate=False)

    def scenario(cpu: CpuScheduler) -> None:
        assert cpu.layers() == ["sched_ext"] and cpu.memory_layers() == []
        assert cpu.missing == {"gate": "the kernel has no function"}
        assert cpu.report()["gate"] is None

    world.run(scenario)


@pytest.mark.parametrize(("memory", "gate"), [("auto", True), ("files,events", False)])
def test_the_gate_is_loaded_where_it_is_wanted(world: World, memory: str, gate: bool) -> None:
    def scenario(cpu: CpuScheduler) -> None:
        assert cpu.memory_layers() == (["gate"] if gate else [])

    world.run(scenario, memory_layers=memory)
    assert world.opened == [gate]


def test_policies_follow_priority_intent_and_mode(world: World) -> None:
    def scenario(cpu: CpuScheduler) -> None:
        held = world.scheduler.held
        cpu.begin(world.call)
        assert held == {LEAF: Policy(Latency.BATCH, Priority.LOW)}, "before the command runs"
        world.session.background = cast(Any, SimpleNamespace(id=BACKGROUND))
        cpu._tick()
        assert held[SESSION] == Policy(Latency.STANDARD, Priority.LOW)
        assert held[BACKGROUND] == Policy(Latency.BATCH, Priority.LOW)
        world.session.spec.priority = Priority.HIGH
        world.call.intent = Intent()
        cpu._tick()
        assert held[LEAF] == held[SESSION] == Policy(Latency.STANDARD, Priority.HIGH)
        world.session.mode = Mode.OBSERVE
        cpu._tick()
        cpu.begin(world.call)
        assert held == {}
        world.session.mode = Mode.ENFORCE
        cpu.begin(world.call)
        cpu.end(world.call)
        assert held == {}
        assert cpu.figures(world.call) == {}

    world.run(scenario)
    assert world.scheduler.closed


def test_the_lease_is_renewed_and_the_gate_opened(world: World) -> None:
    def scenario(cpu: CpuScheduler) -> None:
        cpu._tick()
        assert world.scheduler.timing.lease_until_ns > world.now_ns
        cpu.open_gate()
        assert world.scheduler.timing.gate_paused_until_ns == world.now_ns + SECOND_NS
        cpu.begin(world.call)
        assert cpu.figures(world.call) == {
            "gated_ms": 2.0, "gated_count": 3, "cpu_throttled_ms": 0.0
        }  # fmt: skip
        policy = {"gate_closed_ms": 100, "gate_open_ms": 20}
        cpu.tune(Config.model_validate({"policy": policy}))
        timing = world.scheduler.timing
        assert (timing.gate_closed_ns, timing.gate_open_ns) == (100_000_000, 20_000_000)
        assert cpu.report()["why"] is None, "the layer is that of the start"

    world.run(scenario)


def test_ejected_it_stays_off(world: World) -> None:
    def scenario(cpu: CpuScheduler) -> None:
        world.scheduler.exit = ExitInfo("disabled by sysrq-S", "")
        cpu._tick()
        assert cpu.layers() == [] and cpu.missing == {"sched_ext": "disabled by sysrq-S"}
        assert cpu.report()["why"] == "disabled by sysrq-S"
        assert cpu.finding()[0] == "no" and "sysrq" in cpu.finding()[1]
        cpu.begin(world.call)
        cpu.end(world.call)
        cpu.open_gate()

    world.run(scenario)
    assert world.opened == [True] and world.scheduler.closed


def test_a_change_of_cpus_brings_it_back_three_times_an_hour(world: World) -> None:
    async def lose(cpu: CpuScheduler) -> None:
        world.scheduler.exit = RESTART
        cpu._tick()
        for _ in range(50):
            await asyncio.sleep(0.01)
            if cpu.layers():
                return

    async def scenario(cpu: CpuScheduler) -> None:
        for times in (1, 2, 3):
            await lose(cpu)
            assert cpu.layers() == ["sched_ext"] and cpu.missing == {}
            assert len(world.opened) == 1 + times
        await lose(cpu)
        assert cpu.layers() == [] and len(world.opened) == 4
        assert "going offline" in cpu.missing["sched_ext"]

    world.run(scenario)


def test_pins_have_a_name_that_the_kernel_takes(world: World) -> None:
    name = cpu_scheduler._owner(world.root)
    assert name.startswith("tree-") and "." not in name
    other = cast(Any, SimpleNamespace(path="/sys/fs/cgroup/b.scope/tree"))
    assert cpu_scheduler._owner(other) != name
