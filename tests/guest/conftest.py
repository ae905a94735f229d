# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests that need a real kernel: the guest, or a host just like it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PrivateDaemon

CGROUPFS = Path("/sys/fs/cgroup")
GONE_BY_S = 10.0


@pytest.fixture(scope="session")
def kernel_role() -> str:
    """The role that this guest was started with: newest, oldscx, noscx or lts."""
    return os.environ["AGENTCGROUP_GUEST_KERNEL"]


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    """A daemon of the test's own; the test starts it."""
    with PrivateDaemon() as made:
        yield made


@pytest.fixture
def scratch_cgroup() -> Iterator[Path]:
    """An empty cgroup with every controller on for its children; gone afterwards."""
    for controller in (CGROUPFS / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # hugetlb, rdma, misc: not every kernel lets go
            (CGROUPFS / "cgroup.subtree_control").write_text(f"+{controller}")
    directory = CGROUPFS / f"test-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    enabled = (directory / "cgroup.controllers").read_text().split()
    (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in enabled))
    try:
        yield directory
    finally:
        remove_cgroup(directory)


def remove_cgroup(directory: Path) -> None:
    """Kill what is inside, then remove the directory and all below it."""
    for frozen in directory.rglob("cgroup.freeze"):
        frozen.write_text("0")
    (directory / "cgroup.kill").write_text("1")
    deadline_s = time.monotonic() + GONE_BY_S
    while "populated 1" in (directory / "cgroup.events").read_text():
        assert time.monotonic() < deadline_s, f"{directory}: processes survive cgroup.kill"
        time.sleep(0.01)
    for below in sorted(directory.rglob("*/"), reverse=True):
        if below.is_dir():
            below.rmdir()
    directory.rmdir()
