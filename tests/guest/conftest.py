# SPDX-License-Identifier: Apache-2.0
"""Rules and fixtures of tests that need a real kernel: the guest, or a host just like it.

Outside (no AGENTCGROUP_GUEST=1) they are deselected. Inside nothing may skip: a skip there
would be a hole that looks like a pass, so it is turned into a failure.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

INSIDE = os.environ.get("AGENTCGROUP_GUEST") == "1"
CGROUPFS = Path("/sys/fs/cgroup")
GONE_BY_S = 10.0


def pytest_configure(config: pytest.Config) -> None:
    if not INSIDE:
        return
    if os.geteuid() != 0:
        raise pytest.UsageError("AGENTCGROUP_GUEST=1, but this is not root")
    if not (CGROUPFS / "cgroup.controllers").exists():
        raise pytest.UsageError(f"AGENTCGROUP_GUEST=1, but {CGROUPFS} is not cgroup v2")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if INSIDE:
        return
    here = [item for item in items if item.get_closest_marker("guest") is not None]
    if here:
        config.hook.pytest_deselected(items=here)
        items[:] = [item for item in items if item not in here]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if INSIDE and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in the guest, where nothing may skip: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if INSIDE and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"module skipped in the guest, where nothing may skip: {report.longrepr}"


@pytest.fixture(scope="session")
def kernel_role() -> str:
    """The role that this guest was started with: newest, oldscx, noscx or lts."""
    return os.environ["AGENTCGROUP_GUEST_KERNEL"]


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
