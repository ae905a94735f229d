# SPDX-License-Identifier: Apache-2.0
"""What the kernel's verifier has to do for each of the scheduler's programs: a budget.

It grows by itself when a loop's paths begin to differ for the verifier, long before a kernel
refuses the program (a million instructions); this tells in time.
"""

from __future__ import annotations

import pytest

from agentcgroup.bpf.sched import load_programs
from agentcgroup.bpf.sched_plan import make_plan

pytestmark = [pytest.mark.guest, pytest.mark.sched_ext]

# The most on any kernel of the matrix, rounded up by about a half.
BUDGET = {
    "acg_cgroup_exit": 150,
    "acg_cgroup_init": 30_000,
    "acg_cgroup_move": 100,
    "acg_dispatch": 40_000,
    "acg_enable": 100,
    "acg_end": 100,
    "acg_enqueue": 30_000,
    "acg_init": 10_000,
    "acg_init_task": 100,
    "acg_quiescent": 8_000,
    "acg_runnable": 8_000,
    "acg_running": 200,
    "acg_sched_over_high": 4_000,
    "acg_sched_reclaims": 4_000,
    "acg_select_cpu": 15_000,
    "acg_set_bandwidth": 250,
    "acg_set_idle": 8_000,
    "acg_set_weight": 8_000,
    "acg_stopping": 36_000,
    "acg_tick": 46_000,
}


def test_programs_keep_their_budget() -> None:
    plan = make_plan()
    loaded, refused = load_programs(plan, gate=True)
    try:
        names = set(loaded.program_names) - plan.unfit - set(refused)
        found = {name: loaded.info(name).verified_instructions for name in names}
    finally:
        loaded.close()
    print(found)
    assert set(found) <= set(BUDGET), "a new program needs a budget"
    assert {n: count for n, count in found.items() if count > BUDGET[n]} == {}
