# SPDX-License-Identifier: Apache-2.0
"""What is killed needs CPU to end: its quota is lifted before, and only if it has one."""

from __future__ import annotations

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.enforce import files as enforce
from agentcgroup.types.limits import Limits


def a_leaf(limits: Limits) -> FakeCgroup:
    root = FakeCgroup.delegated(FakeKernel())
    root.write(files.CGROUP_SUBTREE_CONTROL, "+cpu +memory +pids")
    leaf = root.create("leaf")
    enforce.apply_limits(leaf, limits)
    return leaf


def test_a_quota_is_lifted_before_the_kill() -> None:
    limits = Limits(cpu_max_cores=0.01)
    leaf = a_leaf(limits)
    assert leaf.read(files.CPU_MAX).split() == ["1000", "100000"]
    enforce.kill(leaf, limits)
    assert leaf.read(files.CPU_MAX).split() == ["max", "100000"]


def test_a_kill_without_a_quota_writes_nothing_else() -> None:
    leaf = a_leaf(Limits())
    leaf.write(files.CPU_MAX, "5000 100000")  # somebody else's
    enforce.kill(leaf, Limits())
    assert leaf.read(files.CPU_MAX).split() == ["5000", "100000"]
