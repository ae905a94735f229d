# SPDX-License-Identifier: Apache-2.0
"""Weights and quotas under our scheduler, quickly: what the benchmarks cpu_shares and cpu_quota
measure for long and against the kernel's own scheduler.

On kernels without sched_ext, each test asserts that the daemon starts all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import PrivateDaemon

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import cpu_quota
import cpu_shares
from cpu_common import SCX, program, scheduler

pytestmark = [pytest.mark.guest]

ROLES_WITH_SCHED_EXT = {"newest", "oldscx"}
WINDOW_S = 6.0
QUOTA_WINDOW_S = 10.0
WARM_UP_S = 0.5
# Short windows on emulated CPUs that share a thread.
SHARE_POINTS = 2.0
QUOTA_PCT = 8.0


@contextmanager
def ours(kernel_role: str) -> Iterator[bool]:
    """Our scheduler schedules; False on a kernel that can't have one, when this was seen."""
    if kernel_role in ROLES_WITH_SCHED_EXT:
        with scheduler("sched_ext"):
            yield True
        return
    assert not SCX.exists()
    with PrivateDaemon(daemon={"cpu_layer": "sched_ext"}) as daemon:
        daemon.start()
        assert daemon.client.status()["layers"]["cpu"] == ["files"]
        yield False


@pytest.mark.long
def test_shares_follow_the_weights(kernel_role: str) -> None:
    with ours(kernel_role) as there, program("load") as load:
        for tree in (cpu_shares.FLAT, cpu_shares.NESTED_1_3) if there else ():
            run = cpu_shares.measure(tree, load, WINDOW_S, WARM_UP_S)
            print(run)
            assert cpu_shares.worst_error(run) <= SHARE_POINTS, run
            assert run["idle"] < 0.1, "CPUs stood idle beside spinners"


@pytest.mark.long
def test_quotas_hold_and_the_tighter_wins(kernel_role: str) -> None:
    with ours(kernel_role) as there, program("load") as load:
        for name in ("50-beside", "child-50") if there else ():
            run = cpu_quota.measure(cpu_quota.CASES[name], load, QUOTA_WINDOW_S, WARM_UP_S)
            print(name, run)
            assert abs(run["error_pct"]) <= QUOTA_PCT, run
