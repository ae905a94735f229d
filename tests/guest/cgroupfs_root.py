# SPDX-License-Identifier: Apache-2.0
"""A cgroup of a test's own with all controllers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from cgroupfs_scratch import eventually

from agentcgroup.cgroupfs import proc, tree
from agentcgroup.cgroupfs.handle import Cgroup


@pytest.fixture
def root() -> Iterator[Cgroup]:
    mount_point = proc.cgroup2_mount_point()
    assert mount_point is not None
    with Cgroup.open(mount_point) as top:
        assert tree.enable_controllers(top, ["memory", "cpu", "io", "pids"]) == {}
        with top.create(f"test-{os.getpid()}-{time.monotonic_ns()}") as cg:
            assert tree.enable_controllers(cg, ["memory", "cpu", "io", "pids"]) == {}
            yield cg
            if cg.exists():
                cg.kill()
                cg.freeze(False)
                assert eventually(lambda: not cg.populated())
                cg.remove_tree()
