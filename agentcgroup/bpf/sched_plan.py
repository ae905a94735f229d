# SPDX-License-Identifier: Apache-2.0
"""What of our scheduler fits a kernel, by its BTF; and which scheduler it runs now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotSupportedError
from .btf import Btf, Kind
from .choose import GATE, KernelFacts, Parameters, choose, gather
from .tracefs import has_event

__all__ = ["LOADED", "Plan", "count_cpus", "loaded_scheduler", "make_plan", "plan_for"]

TYPE = "sched_ext_ops"
LOADED = Path("/sys/kernel/sched_ext/root/ops")

_STATE = Path("/sys/kernel/sched_ext/state")
_ONLINE = Path("/sys/devices/system/cpu/online")
_TOLD_ALL, _TOLD_WEIGHTS = "acg_told_all", "acg_told_weights"
_CGROUP = "struct cgroup *"
_NEEDED: dict[str, Parameters] = {
    "cgroup_init": (_CGROUP, "struct scx_cgroup_init_args *"),
    "cgroup_exit": (_CGROUP,),
    "cgroup_move": ("struct task_struct *", _CGROUP, _CGROUP),
    "cgroup_set_weight": (_CGROUP, "u32"),
}
# hook -> (parameters, our program); a kernel without both is asked for the figures instead
_TOLD: dict[str, tuple[Parameters, str]] = {
    "cgroup_set_bandwidth": ((_CGROUP, "u64", "u64", "u64"), "acg_set_bandwidth"),
    "cgroup_set_idle": ((_CGROUP, "bool"), "acg_set_idle"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What of our object fits a kernel. `missing`: why the gate is not in it, or not whole."""

    table: str
    left_out: str
    unfit: frozenset[str]
    gate: tuple[str, ...]
    missing: str = ""


def make_plan() -> Plan:
    """For the running kernel. Raises NotSupportedError if it takes no scheduler of ours."""
    kernel = Btf.of_kernel()
    try:
        found = kernel.try_find(TYPE, Kind.STRUCT)
        if found is None or not _STATE.exists():
            raise NotSupportedError(
                "the kernel has no sched_ext: use 6.12 or newer with CONFIG_SCHED_CLASS_EXT"
            )
        members = {m.name: kernel.callback_parameters(m) for m in kernel.members(found)}
        facts = gather(kernel.function_parameters, kernel.tracepoint_parameters, has_event, (GATE,))
    finally:
        kernel.close()
    return plan_for(members, facts)


def plan_for(hooks: Mapping[str, Parameters | None], facts: KernelFacts) -> Plan:
    """By the parameters of each hook that the kernel offers a scheduler."""
    for name, wanted in _NEEDED.items():
        if hooks.get(name) != wanted:
            told = hooks.get(name)
            has = "no such hook" if told is None else f"it takes ({', '.join(told)})"
            raise NotSupportedError(f"the kernel's sched_ext does not tell {name}: {has}")
    choice = choose(facts, (GATE,))
    gate = tuple(program.name for program in choice.chosen.get(GATE, ()))
    missing = choice.missing.get(GATE.name, "")
    if all(hooks.get(name) == wanted for name, (wanted, _program) in _TOLD.items()):
        return Plan(_TOLD_ALL, _TOLD_WEIGHTS, frozenset(), gate, missing)
    unfit = frozenset(program for _wanted, program in _TOLD.values())
    return Plan(_TOLD_WEIGHTS, _TOLD_ALL, unfit, gate, missing)


def loaded_scheduler() -> str | None:
    """The name of the scheduler that the kernel runs now; None: its own."""
    try:
        if _STATE.read_text(encoding="ascii").strip() == "disabled":
            return None
        return LOADED.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def count_cpus(online: str | None = None) -> int:
    """Numbers of CPUs are below this; there may be gaps. "0-2,5" -> 6."""
    listed = _ONLINE.read_text(encoding="ascii") if online is None else online
    return int(listed.strip().rpartition(",")[2].rpartition("-")[2]) + 1
