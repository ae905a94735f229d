# SPDX-License-Identifier: Apache-2.0
"""Which table of hooks a kernel gets, and that the object has what the user half reads."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from agentcgroup.bpf import pins as pins_module
from agentcgroup.bpf import sched_plan
from agentcgroup.bpf.choose import SCHED_OBJECT, KernelFacts
from agentcgroup.bpf.objects import BpfObject, read_image
from agentcgroup.bpf.pins import Pins
from agentcgroup.bpf.sched_maps import ExitInfo, Policy, SchedulerMaps
from agentcgroup.bpf.sched_plan import count_cpus, loaded_scheduler, plan_for
from agentcgroup.errors import NotSupportedError
from agentcgroup.types.intents import Latency, Priority

CGROUP = "struct cgroup *"
MEMCG = "struct mem_cgroup *"
# as read from the BTF of each kernel
HOOKS_6_16: dict[str, tuple[str, ...] | None] = {
    "cgroup_init": (CGROUP, "struct scx_cgroup_init_args *"),
    "cgroup_exit": (CGROUP,),
    "cgroup_move": ("struct task_struct *", CGROUP, CGROUP),
    "cgroup_set_weight": (CGROUP, "u32"),
    "name": None,
}
HOOKS_6_19 = HOOKS_6_16 | {
    "cgroup_set_bandwidth": (CGROUP, "u64", "u64", "u64"),
    "cgroup_set_idle": (CGROUP, "bool"),
}
GATED = KernelFacts({
    "try_to_free_mem_cgroup_pages": (MEMCG, "long unsigned int", "gfp_t"),
    "reclaim_high": (MEMCG, "unsigned int", "gfp_t"),
})  # fmt: skip
PROGRAMS = ("acg_sched_reclaims", "acg_sched_over_high")


def test_a_new_kernel_tells_limits_and_an_old_one_is_asked_for_them() -> None:
    new, old = plan_for(HOOKS_6_19, GATED), plan_for(HOOKS_6_16, GATED)
    assert (new.table, new.left_out, new.unfit) == ("acg_told_all", "acg_told_weights", frozenset())
    assert (old.table, old.left_out) == ("acg_told_weights", "acg_told_all")
    assert old.unfit == {"acg_set_bandwidth", "acg_set_idle"}
    assert new.gate == old.gate == PROGRAMS and new.missing == old.missing == ""


@pytest.mark.parametrize("hook", ["cgroup_set_bandwidth", "cgroup_set_idle"])
def test_half_of_them_or_other_ones_are_none(hook: str) -> None:
    assert plan_for(HOOKS_6_19 | {hook: None}, GATED).table == "acg_told_weights"
    assert plan_for(HOOKS_6_19 | {hook: (CGROUP,)}, GATED).table == "acg_told_weights"


def test_without_cgroups_there_is_no_scheduler() -> None:
    with pytest.raises(NotSupportedError, match="does not tell cgroup_init: no such hook"):
        plan_for({"enqueue": ("struct task_struct *", "u64")}, GATED)
    with pytest.raises(NotSupportedError, match=r"cgroup_set_weight: it takes \(struct cg"):
        plan_for(HOOKS_6_19 | {"cgroup_set_weight": (CGROUP,)}, GATED)


def test_without_its_programs_it_has_no_gate_and_half_a_gate_is_one() -> None:
    assert plan_for(HOOKS_6_19, KernelFacts()).gate == ()
    assert "no function reclaim_high" in plan_for(HOOKS_6_19, KernelFacts()).missing
    half = plan_for(HOOKS_6_19, KernelFacts(GATED.functions | {"reclaim_high": None}))
    assert half.gate == ("acg_sched_reclaims",)


@pytest.mark.parametrize(
    ("online", "count"), [("0\n", 1), ("0-1", 2), ("0-2,5", 6), ("0,2-3", 4), ("0-1023", 1024)]
)
def test_gaps_among_cpus_count(online: str, count: int) -> None:
    assert count_cpus(online) == count


def test_who_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, ops = tmp_path / "state", tmp_path / "ops"
    monkeypatch.setattr(sched_plan, "_STATE", state)
    monkeypatch.setattr(sched_plan, "LOADED", ops)
    assert loaded_scheduler() is None
    state.write_text("enabled\n")
    ops.write_text("other_1.0\n")
    assert loaded_scheduler() == "other_1.0"
    state.write_text("disabled\n")
    assert loaded_scheduler() is None


class Maps(SchedulerMaps):
    """With bytes in the place of the kernel's maps."""

    def __init__(self) -> None:
        super().__init__(BpfObject(read_image(SCHED_OBJECT), SCHED_OBJECT), {})
        self.held: dict[str, bytes] = {}
        self._fds = {name: name for name in ("acg_slots", "acg_cgroups", "bss")}
        self._lib = self

    def lookup(self, name: str, key: bytes, size: int) -> bytes | None:
        found = self.held.get(name)
        assert found is None or len(found) == size
        return found

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        self.held[name] = value


@pytest.fixture
def maps() -> Maps:
    return Maps()


def test_a_policy_is_numbers_of_the_header(maps: Maps) -> None:
    maps._fds["acg_policies"] = 0
    maps.set_policy(5, Policy(Latency.BATCH, Priority.HIGH))
    assert maps.held["acg_policies"] == struct.pack("=II", 2, 3)
    maps.renew(77)
    assert struct.unpack("=6Q", maps.held["acg_control"]) == (77, 0, 0, 0, 0, 1)


def test_figures_are_of_the_cgroup_that_was_asked_for(maps: Maps) -> None:
    layout = maps._layouts["acg_cgroup"]
    fields = dict.fromkeys(layout.names, 0) | {"id": 5, "gated_ns": 9, "latency": 1, "rank": 1}
    maps.held = {"acg_slots": struct.pack("=I", 3), "acg_cgroups": layout.write(fields)}
    counts = maps.counts(5)
    assert counts is not None and counts["gated_ns"] == 9 and "id" not in counts
    assert maps.policy_seen(5) == Policy(Latency.INTERACTIVE, Priority.LOW)
    assert maps.counts(6) is None, "a part of its parent"
    maps.held["acg_cgroups"] = layout.write(fields | {"rank": 0})
    assert maps.policy_seen(5) is None
    maps.held = {}
    assert maps.figures(5) is None


def test_why_it_ended_is_read_as_the_kernel_wrote_it(maps: Maps) -> None:
    layout = maps._layouts["acg_sched_exit"]

    def ended(kind: int, code: int = 0) -> ExitInfo | None:
        fields = {"kind": kind, "code": code, "reason": b"stall", "message": b"sh[5]\nwaits"}
        bss = bytearray(maps._bss_bytes)
        bss[maps._exit_offset : maps._exit_offset + layout.format.size] = layout.write(fields)
        maps.held["bss"] = bytes(bss)
        return maps.exit_info()

    assert ended(0) is None
    assert ended(1024) == ExitInfo("stall", "sh[5] waits", wants_restart=False)
    told = ended(65, 1 << 48 | 1 << 32)
    assert told is not None and told.wants_restart and str(told) == "stall: sh[5] waits"


def test_pins_are_nowhere_that_others_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins_module, "BPFFS", tmp_path)
    monkeypatch.setattr(pins_module, "_is_mounted", lambda: True)
    held = Pins.open("tree-1")
    assert held.labels() == [] and held.find("none") == {}
    (tmp_path / "agentcgroup").chmod(0o777)
    with pytest.raises(NotSupportedError, match="is not root's alone"):
        Pins.open("tree-1")
