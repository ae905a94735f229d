# SPDX-License-Identifier: Apache-2.0
"""Which programs a kernel gets, for the kernels that were looked at."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.bpf.choose import (
    CAPABILITIES,
    MEMORY_OBJECT,
    TOOLCALL_OBJECT,
    KernelFacts,
    choose,
    gather,
)

MEMCG = "struct mem_cgroup *"
TASK = "struct task_struct *"
BPRM = "struct linux_binprm *"

# as read from the BTF of each kernel
FUNCTIONS_6_1: dict[str, tuple[str, ...] | None] = {
    "__memcg_memory_event": None,
    "reclaim_high": (MEMCG, "unsigned int", "gfp_t"),
    "try_to_free_mem_cgroup_pages": (MEMCG, "long unsigned int", "gfp_t", "unsigned int"),
    "mem_cgroup_out_of_memory": (MEMCG, "gfp_t", "int"),
    "try_charge_memcg": (MEMCG, "gfp_t", "unsigned int"),
    "mark_oom_victim": (TASK,),
    "out_of_memory": ("struct oom_control *",),
}
FUNCTIONS_6_12 = FUNCTIONS_6_1 | {
    "try_to_free_mem_cgroup_pages": (MEMCG, "long unsigned int", "gfp_t", "unsigned int", "int *")
}
FUNCTIONS_6_19 = FUNCTIONS_6_12 | {
    "__memcg_memory_event": (MEMCG, "enum memcg_memory_event", "bool")
}
TRACEPOINTS_6_1: dict[str, tuple[str, ...] | None] = {
    "sched_process_exec": (TASK, "pid_t", BPRM),
    "sched_process_exit": (TASK,),
    "mark_victim": (TASK, "uid_t"),
}
TRACEPOINTS_6_16 = TRACEPOINTS_6_1 | {"sched_process_exit": (TASK, "bool")}

EVENTS = frozenset({"sched/sched_process_exec", "sched/sched_process_exit"})
TOOLCALL_PERF = ("acg_on_exec_perf", "acg_on_exit_perf", "acg_oom_begin", "acg_victim_marked")
TOOLCALL = ("acg_on_exec", "acg_on_exit", "acg_oom_begin", "acg_victim_marked")
MEMORY_OLD = ("acg_reclaim_high", "acg_try_to_free", "acg_memcg_oom", "acg_charge_failed")
MEMORY_NEW = ("acg_memory_event", "acg_charge_failed")

Names = tuple[str, ...]


@pytest.mark.parametrize(
    ("functions", "tracepoints", "memory"),
    [
        pytest.param(FUNCTIONS_6_1, TRACEPOINTS_6_1, MEMORY_OLD, id="6.1"),
        pytest.param(FUNCTIONS_6_12, TRACEPOINTS_6_1, MEMORY_OLD, id="6.12"),
        pytest.param(FUNCTIONS_6_12, TRACEPOINTS_6_16, MEMORY_OLD, id="6.16-6.18"),
        pytest.param(FUNCTIONS_6_19, TRACEPOINTS_6_16, MEMORY_NEW, id="6.19-7.3"),
    ],
)
def test_known_kernels_get_everything(
    functions: dict[str, Names | None], tracepoints: dict[str, Names | None], memory: Names
) -> None:
    choice = choose(KernelFacts(functions, tracepoints))
    assert choice.missing == {}
    assert tuple(p.name for p in choice.programs_of(TOOLCALL_OBJECT)) == TOOLCALL
    assert tuple(p.name for p in choice.programs_of(MEMORY_OBJECT)) == memory


def test_perfs_tracepoints_come_first_where_tracefs_has_them() -> None:
    choice = choose(KernelFacts(FUNCTIONS_6_19, TRACEPOINTS_6_16, EVENTS))
    assert tuple(p.name for p in choice.programs_of(TOOLCALL_OBJECT)) == TOOLCALL_PERF


def names(facts: KernelFacts) -> set[str]:
    choice = choose(facts)
    return {program.name for programs in choice.chosen.values() for program in programs}


def test_a_tracepoint_with_only_a_pid_gives_way_to_the_function() -> None:
    chosen = names(KernelFacts(FUNCTIONS_6_1, TRACEPOINTS_6_1 | {"mark_victim": ("int",)}))
    assert "acg_victim_chosen" in chosen
    assert "acg_victim_marked" not in chosen


def test_both_ways_gone_names_both() -> None:
    facts = KernelFacts(
        FUNCTIONS_6_1 | {"mark_oom_victim": None}, TRACEPOINTS_6_1 | {"mark_victim": ("int",)}
    )
    assert choose(facts).missing == {
        "oom": "tracepoint mark_victim takes (int), not (struct task_struct *); "
        "the kernel has no function mark_oom_victim"
    }


def test_half_an_alternative_is_none() -> None:
    choice = choose(KernelFacts(FUNCTIONS_6_12 | {"reclaim_high": None}, TRACEPOINTS_6_1))
    assert set(choice.missing) == {"memory"}
    assert "acg_try_to_free" not in {p.name for p in choice.programs_of(MEMORY_OBJECT)}


def test_a_result_behind_other_arguments_is_not_read() -> None:
    longer = FUNCTIONS_6_12 | {"try_charge_memcg": (MEMCG, "gfp_t", "unsigned int", "bool")}
    choice = choose(KernelFacts(longer, TRACEPOINTS_6_1))
    assert set(choice.missing) == {"charge_failed"}
    assert (
        "takes (struct mem_cgroup *, gfp_t, unsigned int, bool)" in choice.missing["charge_failed"]
    )


def test_no_facts_no_programs_and_a_reason_each() -> None:
    choice = choose(KernelFacts())
    assert not choice.chosen
    assert set(choice.missing) == {capability.name for capability in CAPABILITIES}
    assert all(choice.missing.values())


HOOKS = sorted({p.target for c in CAPABILITIES for a in c.alternatives for p in a})
PARAMETERS = st.none() | st.lists(
    st.sampled_from([MEMCG, TASK, BPRM, "int", "pid_t", "gfp_t", "struct oom_control *"]),
    max_size=4,
).map(tuple)


@given(functions=st.dictionaries(st.sampled_from(HOOKS), PARAMETERS),
       tracepoints=st.dictionaries(st.sampled_from(HOOKS), PARAMETERS))  # fmt: skip
def test_every_capability_is_either_chosen_or_explained(
    functions: Mapping[str, Names | None], tracepoints: Mapping[str, Names | None]
) -> None:
    choice = choose(KernelFacts(functions, tracepoints))
    chosen = {capability.name for capability in choice.chosen}
    assert chosen.isdisjoint(choice.missing)
    assert chosen | set(choice.missing) == {capability.name for capability in CAPABILITIES}


def test_gather_asks_for_each_hook_in_its_own_table() -> None:
    facts = gather(FUNCTIONS_6_19.get, TRACEPOINTS_6_16.get, EVENTS.__contains__)
    assert facts == KernelFacts(FUNCTIONS_6_19, TRACEPOINTS_6_16, EVENTS)
