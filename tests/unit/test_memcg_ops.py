# SPDX-License-Identifier: Apache-2.0
"""The layer `memcg_ops` without a kernel: lines, demotion, and what is said when it is absent."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from agentcgroup.bpf import memcg_ops
from agentcgroup.bpf.memcg_ops import Line, Offer
from agentcgroup.enforce.memcg_ops import LEASE_S, MemcgLayer, line_for
from agentcgroup.policy.delay import DelayTuning
from agentcgroup.types.intents import Latency, Priority
from agentcgroup.units import MIB

TUNING = DelayTuning(max_ms=100)
LINE = Line(1, 1, 1, (1,) * 16)


class KernelHooks:
    """The map as the kernel keeps it; `failing` makes every write fail."""

    def __init__(self, *, protection: bool = False) -> None:
        self.offer = Offer("module fake", protection)
        self.lines: dict[int, Line] = {}
        self.until_ns = 0
        self.writes = 0
        self.failing = self.closed = self.hung_up = False

    def _write(self) -> None:
        self.writes += 1
        if self.failing:
            raise OSError(7, "Argument list too long")

    def set(self, cgroup_id: int, line: Line) -> None:
        self._write()
        self.lines[cgroup_id] = line

    def clear(self, cgroup_id: int) -> None:
        self._write()
        self.lines.pop(cgroup_id, None)

    def renew(self, until_ns: int) -> None:
        self._write()
        self.until_ns = until_ns

    def counts(self) -> dict[str, int]:
        return {"asked": 3}

    def fileno(self) -> int:
        return -1

    def detached(self) -> bool:
        return self.hung_up

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.fixture
def hooks() -> KernelHooks:
    return KernelHooks()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def layer(hooks: KernelHooks, lost: list[str]) -> MemcgLayer:
    return MemcgLayer(hooks, lambda: lost.append("lost"))


def test_a_line_is_written_when_it_changes(layer: MemcgLayer, hooks: KernelHooks) -> None:
    layer.draw(5, LINE)
    layer.draw(5, LINE)
    assert hooks.lines == {5: LINE} and hooks.writes == 1
    layer.draw(6, None)
    assert hooks.writes == 1
    layer.draw(5, None)
    layer.draw(5, None)
    assert hooks.lines == {} and hooks.writes == 2


def test_the_lease_is_renewed_and_counts_are_told(layer: MemcgLayer, hooks: KernelHooks) -> None:
    layer.renew(1_000)
    assert hooks.until_ns == 1_000 + int(LEASE_S * 1e9)
    assert layer.counts() == {"asked": 3}
    layer.close()
    layer.close()
    assert hooks.closed and layer.counts() == {}


@pytest.mark.parametrize("last_straw", ["draw", "lift", "renew"])
def test_an_error_demotes_once_and_for_good(
    layer: MemcgLayer, hooks: KernelHooks, lost: list[str], last_straw: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("agentcgroup"), "propagate", True)
    layer.draw(5, LINE)
    hooks.failing = True
    for _ in range(2):
        if last_straw == "draw":
            layer.draw(7, LINE)
        elif last_straw == "lift":
            layer.draw(5, None)
        else:
            layer.renew(1)
    assert not layer.attached and "Argument list too long" in str(layer.lost)
    assert lost == ["lost"] and hooks.closed
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "files and events go on" in said[0]
    layer.close()


def test_detaching_from_outside_is_noticed(
    layer: MemcgLayer, hooks: KernelHooks, lost: list[str]
) -> None:
    layer.check()
    assert layer.attached
    hooks.hung_up = True
    layer.check()
    layer.check()
    assert lost == ["lost"] and hooks.closed and "detached" in str(layer.lost)


def test_who_gets_which_line() -> None:
    def line(
        priority: Priority, *, protection: bool = False, grant: int | None = MIB
    ) -> Line | None:
        return line_for(grant, 0.1, priority, Latency.BATCH, TUNING, protection=protection)

    low = line(Priority.LOW)
    assert low is not None and low.delay_ms[-1] == 100 and low.protected_bytes == 0
    assert low == line(Priority.LOW, protection=True)
    assert line(Priority.HIGH) is None
    assert line(Priority.HIGH, protection=True) == Line(protected_bytes=MIB)
    assert line(Priority.LOW, grant=None) is None


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memcg_ops, "_MODULES", tmp_path)
    return tmp_path


def install(modules: Path, release: str, directory: str = "extra") -> None:
    path = modules / release / directory / "agentcgroup_memcg.ko.xz"
    path.parent.mkdir(parents=True)
    path.touch()


def test_absent_built_for_another_kernel_or_only_not_loaded(modules: Path) -> None:
    assert "build and load the optional module (bpf/kmod/README.md)" in memcg_ops._why_nobody()
    install(modules, "9.9.9-other", "updates/dkms")
    told = memcg_ops._why_nobody()
    assert "is installed for kernel 9.9.9-other, this is " + os.uname().release in told
    assert "build and install it for this one" in told
    install(modules, os.uname().release)
    assert "load it: modprobe agentcgroup_memcg" in memcg_ops._why_nobody()
