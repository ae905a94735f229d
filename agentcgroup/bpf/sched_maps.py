# SPDX-License-Identifier: Apache-2.0
"""The scheduler's maps: what it is told, and what it tells. Times are CLOCK_MONOTONIC ns.

Policies hold as long as the lease is renewed; once nobody does, the scheduler leaves by
itself after a while (`linger_ns`).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from ..errors import NotSupportedError
from ..types.intents import Latency, Priority
from .btf import Btf, Kind
from .decode import RecordLayout
from .libbpf import load_libbpf
from .objects import BpfObject

__all__ = ["MAPS", "ExitInfo", "Policy", "SchedulerMaps", "Timing", "pin_name"]

MAPS = ("acg_policies", "acg_control", "acg_slots", "acg_cgroups", "acg_gates", ".bss")

# enum scx_exit_code of kernel/sched/ext_internal.h: the loader is asked to attach again
_RESTART = 1 << 48

_RECORDS = (
    "acg_sched_policy", "acg_sched_control", "acg_cgroup", "gate", "acg_sched_counts",
    "acg_sched_exit",
)  # fmt: skip

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Policy:
    """For a cgroup and all below it that have none of their own."""

    latency: Latency
    rank: Priority


@dataclass(slots=True)
class Timing:
    """What the scheduler is told besides policies; struct acg_sched_control."""

    lease_until_ns: int = 0
    linger_ns: int = 0
    gate_closed_ns: int = 0
    gate_open_ns: int = 0
    gate_paused_until_ns: int = 0
    policy_generation: int = 0


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """Why the kernel ended it. `wants_restart`: only because its CPUs changed."""

    reason: str
    message: str
    wants_restart: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class SchedulerMaps:
    """By descriptor, so that it makes no difference who loaded them."""

    def __init__(self, opened: BpfObject, fds: dict[str, int]) -> None:
        """`opened` knows the layouts, whether loaded or not; `fds` by the names of pins."""
        btf = opened.btf
        self._lib = load_libbpf()
        self._fds = fds
        self._layouts = {name: RecordLayout.from_btf(btf, name) for name in _RECORDS}
        self._latencies = _numbers(btf, "acg_latency")
        self._ranks = _numbers(btf, "acg_rank")
        self._exit_offset = btf.variables(".bss")["acg_exit"][0]
        self._bss_bytes = opened.value_bytes(".bss")
        self.timing = Timing()

    # --- what it is told

    def set_policy(self, cgroup_id: int, policy: Policy) -> None:
        """Raises OSError if the kernel takes no more policies."""
        record = self._layouts["acg_sched_policy"].write(
            {"latency": self._latencies[policy.latency], "rank": self._ranks[policy.rank]}
        )
        self._update("acg_policies", _U64.pack(cgroup_id), record)
        self._renumber()

    def clear_policy(self, cgroup_id: int) -> None:
        result = self._lib.bpf_map_delete_elem(self._fds["acg_policies"], _U64.pack(cgroup_id))
        if result != -errno.ENOENT:
            self._lib.check(result, "cannot delete from acg_policies")
        self._renumber()

    def policies(self) -> list[int]:
        """Cgroup ids that have one."""
        keys = self._lib.keys(self._fds["acg_policies"], _U64.size)
        return [_U64.unpack(key)[0] for key in keys]

    def renew(self, until_ns: int) -> None:
        self.timing.lease_until_ns = until_ns
        self._tell()

    def pause_gate(self, until_ns: int) -> None:
        """Open for everybody until then, also for who waits at it now."""
        self.timing.gate_paused_until_ns = until_ns
        self._tell()

    def _go_on(self, timing: Timing) -> None:
        """Where a predecessor stopped: the policies that are there hold on."""
        told = self._lookup("acg_control", _U32.pack(0), self._layouts["acg_sched_control"])
        assert told is not None  # an array has all its elements
        self.timing = timing
        self.timing.policy_generation = told["policy_generation"]
        self._renumber()

    def _renumber(self) -> None:
        self.timing.policy_generation = self.timing.policy_generation + 1 & (1 << 64) - 1
        self._tell()

    def _tell(self) -> None:
        fields = {name: getattr(self.timing, name) for name in Timing.__slots__}
        record = self._layouts["acg_sched_control"].write(fields)
        self._update("acg_control", _U32.pack(0), record)

    # --- what it tells

    def figures(self, cgroup_id: int) -> dict[str, int] | None:
        """The scheduler's record of a cgroup; None: it has none of its own."""
        slot = self._lib.lookup(self._fds["acg_slots"], _U64.pack(cgroup_id), _U32.size)
        if slot is None:
            return None
        found = self._lookup("acg_cgroups", slot, self._layouts["acg_cgroup"])
        return found if found is not None and found["id"] == cgroup_id else None

    def counts(self, cgroup_id: int) -> dict[str, int] | None:
        """struct acg_sched_counts of a cgroup: how often, and for how many nanoseconds."""
        found = self.figures(cgroup_id)
        names = self._layouts["acg_sched_counts"].names
        return None if found is None else {name: found[name] for name in names}

    def policy_seen(self, cgroup_id: int) -> Policy | None:
        """What the scheduler goes by when it deals with this cgroup's tasks."""
        found = self.figures(cgroup_id)
        if found is None:
            return None
        latency = next((n for n, v in self._latencies.items() if v == found["latency"]), None)
        rank = next((n for n, v in self._ranks.items() if v == found["rank"]), None)
        if latency not in set(Latency) or rank not in set(Priority):
            return None
        return Policy(Latency(latency), Priority(rank))

    def gate_counts(self) -> dict[str, int]:
        """How often the gate was closed for each rank."""
        return {rank.value: self._gate(rank)["closed_count"] for rank in Priority}

    def gate_closed_ns(self, rank: Priority) -> int:
        """When it was last closed for a rank."""
        return self._gate(rank)["closed_ns"]

    def _gate(self, rank: Priority) -> dict[str, int]:
        found = self._lookup("acg_gates", _U32.pack(self._ranks[rank]), self._layouts["gate"])
        assert found is not None  # an array has all its elements
        return found

    def exit_info(self) -> ExitInfo | None:
        """Why it ended; None while the kernel has not ended it."""
        raw = self._lib.lookup(self._fds["bss"], _U32.pack(0), self._bss_bytes)
        if raw is None:
            return None
        told = self._layouts["acg_sched_exit"].read(raw[self._exit_offset :])
        if not told["kind"]:
            return None
        reason, message = _text(told["reason"]), _text(told["message"])
        return ExitInfo(reason or f"kind {told['kind']}", message, bool(told["code"] & _RESTART))

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        result = self._lib.bpf_map_update_elem(self._fds[name], key, value, 0)
        self._lib.check(result, f"cannot write {name}")

    def _lookup(self, name: str, key: bytes, layout: RecordLayout) -> dict[str, int] | None:
        raw = self._lib.lookup(self._fds[name], key, layout.format.size)
        return None if raw is None else layout.read(raw)


def pin_name(map_name: str) -> str:
    """The BPF file system has no names with a dot."""
    return map_name.replace(".", "")


def _numbers(btf: Btf, enum: str) -> dict[str, int]:
    found = btf.try_find(enum, Kind.ENUM)
    if found is None:
        raise NotSupportedError(f"the BPF object has no enum {enum}: rebuild it")
    return {
        name.removeprefix("ACG_").lower(): value for name, value in btf.enum_values(found).items()
    }


def _text(raw: object) -> str:
    """As the kernel wrote it, printable."""
    assert isinstance(raw, bytes)
    plain = raw.split(b"\0", 1)[0].decode(errors="replace").strip()
    return "".join(c if c.isprintable() else " " for c in plain)
