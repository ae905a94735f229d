# SPDX-License-Identifier: Apache-2.0
"""Which tests run where. What can't run here is deselected, never skipped.

guest: only in a guest (AGENTCGROUP_GUEST=1), where nothing may skip: a skip there would
be a hole that looks like a pass, so it is turned into a failure. agents: only on a kernel
that tells who calls (test_identity_fallback has the others). sched_ext: only on a kernel
with it. systemd: only where it is PID 1 (a guest booted with --systemd). data: only with
AGENTCGROUP_DATA. browser: only with Chromium. bcc: only where BCC can be imported and the
kernel's headers are. long, campaign, soak: only when asked for with -m.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup.daemon.identity import peer_pidfd_offered

INSIDE = os.environ.get("AGENTCGROUP_GUEST") == "1"
CGROUPFS = Path("/sys/fs/cgroup")


def pytest_configure(config: pytest.Config) -> None:
    heed_signals()
    if not INSIDE:
        return
    if os.geteuid() != 0:
        raise pytest.UsageError("AGENTCGROUP_GUEST=1, but this is not root")
    if not (CGROUPFS / "cgroup.controllers").exists():
        raise pytest.UsageError(f"AGENTCGROUP_GUEST=1, but {CGROUPFS} is not cgroup v2")


def heed_signals() -> None:
    """Under nohup, or in the background of a script, every child ignores these, and a shell
    can't trap what it ignored from the start: a test of it would wait for ever."""
    for number, heeded in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, heeded)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("markexpr") or ""
    left_out = {name for name in ("soak", "campaign", "long") if name not in asked}
    if not INSIDE:
        left_out.add("guest")
    if INSIDE and not peer_pidfd_offered():
        left_out.add("agents")
    if not Path("/sys/kernel/sched_ext").is_dir():
        left_out.add("sched_ext")
    if not Path("/run/systemd/system").is_dir():
        left_out.add("systemd")
    if not os.environ.get("AGENTCGROUP_DATA"):
        left_out.add("data")
    if shutil.which("chromium") is None:
        left_out.add("browser")
    headers = Path("/lib/modules") / os.uname().release / "build"
    if importlib.util.find_spec("bcc") is None or not headers.is_dir():
        left_out.add("bcc")
    out = [item for item in items if left_out & {mark.name for mark in item.iter_markers()}]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


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
