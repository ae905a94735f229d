# SPDX-License-Identifier: Apache-2.0
"""The layer `sched_ext` without a kernel: policies, lease, gate, and how it is lost."""

from __future__ import annotations

import logging

import pytest
from sched_fake import FakeScheduler

from agentcgroup.bpf.sched_maps import ExitInfo, Policy
from agentcgroup.enforce.sched_ext import LEASE_S, PAUSE_S, SchedExtLayer
from agentcgroup.types.intents import Latency, Priority

LOW = Policy(Latency.STANDARD, Priority.LOW)
HIGH = Policy(Latency.INTERACTIVE, Priority.HIGH)
EJECTED = ExitInfo("runnable task stall", "sh[5] failed to run for 30.0s")


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def layer(scheduler: FakeScheduler, lost: list[str]) -> SchedExtLayer:
    return SchedExtLayer(scheduler, lambda: lost.append("lost"))


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("agentcgroup"), "propagate", True)
    monkeypatch.setattr("agentcgroup.log._said", set())
    return caplog


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in said.records]


def test_a_policy_is_written_when_it_changes(
    layer: SchedExtLayer, scheduler: FakeScheduler
) -> None:
    layer.set(5, LOW)
    layer.set(5, LOW)
    assert scheduler.held == {5: LOW} and scheduler.writes == 1
    layer.set(5, HIGH)
    layer.clear(6)
    assert scheduler.held == {5: HIGH} and scheduler.writes == 2
    layer.clear(5)
    layer.clear(5)
    assert scheduler.held == {} and scheduler.writes == 3


def test_a_predecessors_policies_hold_until_all_are_known(lost: list[str]) -> None:
    scheduler = FakeScheduler(pinned=(5, 6))
    layer = SchedExtLayer(scheduler, lambda: None)
    assert layer.adopted and scheduler.writes == 0
    layer.set(5, LOW)
    layer.set_all({5: LOW, 7: HIGH})
    assert scheduler.held == {5: LOW, 7: HIGH} and scheduler.writes == 3


def test_lease_and_gate_are_told_in_monotonic_time(
    layer: SchedExtLayer, scheduler: FakeScheduler
) -> None:
    layer.renew(1_000)
    assert scheduler.timing.lease_until_ns == 1_000 + int(LEASE_S * 1e9)
    layer.tune((7, 3))
    layer.pause_gate(1_000)
    timing = scheduler.timing
    assert timing.gate_paused_until_ns == 1_000 + int(PAUSE_S * 1e9)
    assert (timing.gate_closed_ns, timing.gate_open_ns) == (7, 3)
    layer.close()
    layer.close()
    assert scheduler.closed and layer.counts(5) == {} and layer.gate_counts() == {}


def test_without_a_gate_there_is_nothing_to_pause() -> None:
    scheduler = FakeScheduler(gate=False)
    layer = SchedExtLayer(scheduler, lambda: None)
    layer.pause_gate(1_000)
    assert scheduler.writes == 0 and not layer.has_gate and "no function" in layer.gate_missing


def test_an_ejection_is_told_once_and_for_good(
    layer: SchedExtLayer, scheduler: FakeScheduler, lost: list[str], said: pytest.LogCaptureFixture
) -> None:
    layer.set(5, LOW)
    scheduler.exit = EJECTED
    for _ in range(2):
        layer.renew(1_000)
        layer.set(6, LOW)
        layer.clear(5)
        layer.pause_gate(1)
    assert not layer.attached and lost == ["lost"] and scheduler.closed
    assert not layer.wants_restart
    assert lines(said) == [
        "sched_ext is off from now on, cpu.weight and cpu.max in files go on:"
        " runnable task stall: sh[5] failed to run for 30.0s"
    ]


def test_a_change_of_cpus_asks_for_a_restart(
    layer: SchedExtLayer, scheduler: FakeScheduler
) -> None:
    scheduler.exit = ExitInfo("unregistered from the main kernel", "cpu 1 going offline", True)
    layer.renew(1_000)
    assert layer.wants_restart and not layer.attached


@pytest.mark.parametrize("last_straw", ["renew", "clear", "pause"])
def test_an_error_demotes(
    layer: SchedExtLayer, scheduler: FakeScheduler, lost: list[str], last_straw: str
) -> None:
    layer.set(5, LOW)
    scheduler.failing = True
    if last_straw == "renew":
        layer.renew(1)
    elif last_straw == "clear":
        layer.clear(5)
    else:
        layer.pause_gate(1)
    assert lost == ["lost"] and "Argument list too long" in str(layer.lost)


def test_a_full_table_costs_one_line_and_the_class(
    layer: SchedExtLayer, scheduler: FakeScheduler, lost: list[str], said: pytest.LogCaptureFixture
) -> None:
    scheduler.failing = True
    layer.set(5, LOW)
    layer.set(6, LOW)
    assert lost == [] and layer.attached
    assert len(lines(said)) == 1 and "no more policies" in lines(said)[0]
    scheduler.failing = False
    layer.set(6, LOW)
    assert scheduler.held == {6: LOW}
