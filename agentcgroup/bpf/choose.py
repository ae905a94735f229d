# SPDX-License-Identifier: Apache-2.0
"""Which programs fit the running kernel. Pure: facts in, choice out.

Facts are the parameter types of functions and tracepoints in the kernel's BTF. A program
fits if its hook is there with the arguments that it reads; trying to load it would not tell,
because one with wrong arguments loads and reads nonsense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "BOUNDARY_OBJECT",
    "CAPABILITIES",
    "GATE",
    "MEMORY_OBJECT",
    "SCHED_OBJECT",
    "TOOLCALL_OBJECT",
    "Capability",
    "Choice",
    "KernelFacts",
    "Program",
    "choose",
    "gather",
]

BOUNDARY_OBJECT = "boundary.bpf.o"
MEMORY_OBJECT = "memory.bpf.o"
SCHED_OBJECT = "sched.bpf.o"
TOOLCALL_OBJECT = "toolcall.bpf.o"

_MEMCG = "struct mem_cgroup *"
_TASK = "struct task_struct *"
Parameters = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A program and what it needs: `parameters` is what the hook's must begin with.

    `exactly`: there must be no more, because the program reads the result behind them.
    """

    name: str
    hook: str
    target: str
    parameters: Parameters
    exactly: bool = False

    @property
    def is_tracepoint(self) -> bool:
        return self.hook == "tp_btf"

    @property
    def is_event(self) -> bool:
        """One of perf's tracepoints, whose fields CO-RE finds by their names."""
        return self.hook == "tracepoint"


@dataclass(frozen=True, slots=True)
class Capability:
    """Something user space is told about; the first alternative that fits is taken whole."""

    name: str
    object_name: str
    alternatives: tuple[tuple[Program, ...], ...]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Parameter types by name; None: not in the kernel's BTF. `events`: those in tracefs."""

    functions: Mapping[str, Parameters | None] = field(default_factory=dict)
    tracepoints: Mapping[str, Parameters | None] = field(default_factory=dict)
    events: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """Programs to load by capability, and for each missing capability the reason."""

    chosen: Mapping[Capability, tuple[Program, ...]]
    missing: Mapping[str, str]

    def programs_of(self, object_name: str) -> tuple[Program, ...]:
        return tuple(
            program
            for capability, programs in self.chosen.items()
            if capability.object_name == object_name
            for program in programs
        )


_OOM_BEGIN = Program("acg_oom_begin", "fentry", "out_of_memory", ("struct oom_control *",))

# Where tracepoints can be preempted (Linux 7.0 and newer), a program at the BTF one is left out
# when another task on that CPU is inside it; perf's can't be preempted.
CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "exec",
        TOOLCALL_OBJECT,
        (
            (Program("acg_on_exec_perf", "tracepoint", "sched/sched_process_exec", ()),),
            (
                Program(
                    "acg_on_exec",
                    "tp_btf",
                    "sched_process_exec",
                    (_TASK, "pid_t", "struct linux_binprm *"),
                ),
            ),
        ),
    ),
    Capability(
        "exit",
        TOOLCALL_OBJECT,
        (
            (Program("acg_on_exit_perf", "tracepoint", "sched/sched_process_exit", ()),),
            (Program("acg_on_exit", "tp_btf", "sched_process_exit", (_TASK,)),),
        ),
    ),
    Capability(
        "oom",
        TOOLCALL_OBJECT,
        (
            (_OOM_BEGIN, Program("acg_victim_marked", "tp_btf", "mark_victim", (_TASK,))),
            (_OOM_BEGIN, Program("acg_victim_chosen", "fentry", "mark_oom_victim", (_TASK,))),
        ),
    ),
    Capability(
        "memory",
        MEMORY_OBJECT,
        (
            (
                Program(
                    "acg_memory_event",
                    "fentry",
                    "__memcg_memory_event",
                    (_MEMCG, "enum memcg_memory_event"),
                ),
            ),
            (
                Program("acg_reclaim_high", "fentry", "reclaim_high", (_MEMCG,)),
                Program(
                    "acg_try_to_free",
                    "fentry",
                    "try_to_free_mem_cgroup_pages",
                    (_MEMCG, "long unsigned int"),
                ),
                Program("acg_memcg_oom", "fentry", "mem_cgroup_out_of_memory", (_MEMCG,)),
            ),
        ),
    ),
    Capability(
        "charge_failed",
        MEMORY_OBJECT,
        (
            (
                Program(
                    "acg_charge_failed",
                    "fexit",
                    "try_charge_memcg",
                    (_MEMCG, "gfp_t", "unsigned int"),
                    exactly=True,
                ),
            ),
        ),
    ),
)

_RECLAIMS = Program("acg_sched_reclaims", "fentry", "try_to_free_mem_cgroup_pages", (_MEMCG,))
_OVER_HIGH = Program("acg_sched_over_high", "fentry", "reclaim_high", (_MEMCG,))

GATE = Capability("gate", SCHED_OBJECT, ((_RECLAIMS, _OVER_HIGH), (_RECLAIMS,)))
"""Part of the scheduler: not among those that stand by themselves."""


def choose(facts: KernelFacts, capabilities: Sequence[Capability] = CAPABILITIES) -> Choice:
    """The best programs for a kernel with these facts."""
    chosen: dict[Capability, tuple[Program, ...]] = {}
    missing: dict[str, str] = {}
    for capability in capabilities:
        reasons: list[str] = []
        for alternative in capability.alternatives:
            misfits = [why for program in alternative if (why := _misfit(program, facts))]
            if not misfits:
                chosen[capability] = alternative
                break
            reasons += [why for why in misfits if why not in reasons]
        else:
            missing[capability.name] = "; ".join(reasons)
    return Choice(chosen, missing)


def gather(
    function: Callable[[str], Parameters | None],
    tracepoint: Callable[[str], Parameters | None],
    event: Callable[[str], bool],
    capabilities: Sequence[Capability] = CAPABILITIES,
) -> KernelFacts:
    """Look up every hook of the table, with the given ways to ask the kernel's BTF and tracefs."""
    programs = [p for c in capabilities for alternative in c.alternatives for p in alternative]
    return KernelFacts(
        functions={
            p.target: function(p.target) for p in programs if not p.is_tracepoint and not p.is_event
        },
        tracepoints={p.target: tracepoint(p.target) for p in programs if p.is_tracepoint},
        events=frozenset(p.target for p in programs if p.is_event and event(p.target)),
    )


def _misfit(program: Program, facts: KernelFacts) -> str | None:
    if program.is_event:
        return None if program.target in facts.events else f"tracefs has no {program.target}"
    table = facts.tracepoints if program.is_tracepoint else facts.functions
    what = f"{'tracepoint' if program.is_tracepoint else 'function'} {program.target}"
    found = table.get(program.target)
    if found is None:
        return f"the kernel has no {what}"
    wanted = len(program.parameters)
    if found[:wanted] != program.parameters or (program.exactly and len(found) != wanted):
        return f"{what} takes ({', '.join(found)}), not ({', '.join(program.parameters)})"
    return None
