# SPDX-License-Identifier: Apache-2.0
"""Probes of a real kernel: yes only where the effect was seen."""

from __future__ import annotations

import time

import pytest

from agentcgroup.cgroupfs import files, probe, proc
from agentcgroup.cgroupfs.handle import Cgroup
from agentcgroup.types.capabilities import Answer

pytest_plugins = ["cgroupfs_root"]
pytestmark = [pytest.mark.guest, pytest.mark.smoke]


class TestProbes:
    @pytest.mark.parametrize(
        "name",
        [
            "memory.high",
            "memory.max",
            "memory.peak",
            "memory.reclaim",
            "memory.pressure",
            "cgroup.kill",
            "cgroup.freeze",
            "pids.max",
            "xattr",
            "cpu.max",
            "cpu.weight",
            "io.max",
        ],
    )
    def test_effect_seen(self, root: Cgroup, name: str) -> None:
        for _ in range(5):
            found = probe.probe_one(root, name)
            if found.answer is not Answer.UNKNOWN:
                break
        assert found.answer is Answer.YES, found
        assert found.reason
        assert root.children() == []

    def test_no_effect_without_the_controller(self, root: Cgroup) -> None:
        leaf = root.create("leaf")
        for name in ("memory.high", "memory.peak", "swap", "pids.max", "cpu.max", "cpu.weight"):
            found = probe.probe_one(leaf, name)
            assert found.answer is Answer.NO, found
            assert "subtree_control" in found.reason

    def test_swap_and_io_weight_are_decided(self, root: Cgroup) -> None:
        areas = proc.lines("/proc/swaps")[1:]
        assert bool(probe.probe_one(root, "swap")) == bool(areas)
        assert probe.probe_one(root, "io.weight").answer is not Answer.UNKNOWN

    def test_io_weight_with_io_cost(self, root: Cgroup) -> None:
        disk = probe.disk_of("/var/tmp")
        assert disk is not None
        top = Cgroup.open(proc.cgroup2_mount_point() or "/")
        with top:
            if top.try_read(files.IO_COST_QOS) is None:
                assert probe.probe_one(root, "io.weight").answer is not Answer.YES
                return
            top.write(files.IO_COST_QOS, f"{disk} enable=1")
            try:
                found = probe.probe_one(root, "io.weight")
                assert found.answer is Answer.YES
                assert disk in found.reason
            finally:
                top.write(files.IO_COST_QOS, f"{disk} enable=0")

    def test_could_not_tell_when_it_cannot_run(self, root: Cgroup) -> None:
        root.write(files.CGROUP_MAX_DESCENDANTS, "0")
        assert probe.probe_one(root, "memory.high").answer is Answer.UNKNOWN

    def test_all_of_them(self, root: Cgroup) -> None:
        started_s = time.monotonic()
        found = probe.probe_all(root)
        assert [capability.name for capability in found] == list(probe.PROBES)
        assert time.monotonic() - started_s < 120
        for capability in found:
            print(capability.name, capability.answer, capability.reason)
