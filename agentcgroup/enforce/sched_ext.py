# SPDX-License-Identifier: Apache-2.0
"""Layer `sched_ext`: our scheduler for the whole host. Off by default.

Weights and limits are in files whatever happens, so losing it needs no write: the kernel's
own scheduler goes by the same cpu.weight and cpu.max. What is lost are latency classes and
the memory gate. A lease in the kernel ends every policy when nobody renews it, and some time
later the scheduler itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ..bpf.pins import Pins
from ..bpf.sched import Scheduler
from ..bpf.sched_maps import ExitInfo, Policy, Timing
from ..cgroupfs.api import CgroupLike
from ..cgroupfs.probe import scratch_cgroup
from ..cgroupfs.probe_worker import ProbeWorker, WorkerSilentError
from ..errors import NotSupportedError
from ..log import get_logger, warn_once
from ..types.intents import Latency, Priority
from ..units import NS_PER_S

__all__ = ["LEASE_S", "LINGER_S", "PAUSE_S", "SchedExtLayer", "SchedulerLike"]

LEASE_S = 5.0
LINGER_S = 60.0
PAUSE_S = 1.0
_PROOF = Policy(Latency.BATCH, Priority.LOW)
_PROOF_SPIN_MS = 20
# A table that is full, or a kernel short of memory: the call runs as a standard one.
_NO_POLICY = "the scheduler takes no more policies: calls without one are standard ones"

_log = get_logger(__name__)


class SchedulerLike(Protocol):
    """What the layer needs of `Scheduler`."""

    timing: Timing
    has_gate: bool
    gate_missing: str
    adopted: bool

    def set_policy(self, cgroup_id: int, policy: Policy) -> None: ...
    def clear_policy(self, cgroup_id: int) -> None: ...
    def policies(self) -> list[int]: ...
    def policy_seen(self, cgroup_id: int) -> Policy | None: ...
    def renew(self, until_ns: int) -> None: ...
    def pause_gate(self, until_ns: int) -> None: ...
    def counts(self, cgroup_id: int) -> dict[str, int] | None: ...
    def gate_counts(self) -> dict[str, int]: ...
    def ended(self) -> ExitInfo | None: ...
    def close(self) -> None: ...


class SchedExtLayer:
    """Policies of sessions and calls in the kernel, for as long as the scheduler runs."""

    def __init__(self, scheduler: SchedulerLike, on_lost: Callable[[], None]) -> None:
        """Owns `scheduler`; `on_lost` is called once, before it is closed."""
        self._scheduler = scheduler
        self._on_lost = on_lost
        # Of a predecessor's policies only the ids are known: each is written again, or goes.
        self._set: dict[int, Policy | None] = dict.fromkeys(scheduler.policies())
        self.adopted = scheduler.adopted
        self.has_gate = scheduler.has_gate
        self.gate_missing = scheduler.gate_missing
        self.lost: str | None = None
        self.wants_restart = False

    @classmethod
    def open(
        cls,
        root: CgroupLike,
        owner: str,
        on_lost: Callable[[], None],
        *,
        gate: bool,
        gate_ns: tuple[int, int],
    ) -> SchedExtLayer:
        """Adopt or attach, and see that it schedules a throw-away cgroup below `root`.

        `owner`: whose pins to look for. `gate_ns`: how long the gate is closed at most, and
        open at least. Raises NotSupportedError with the reason; then nothing is attached.
        """
        closed_ns, open_ns = gate_ns
        timing = Timing(
            lease_until_ns=time.monotonic_ns() + int(LINGER_S * NS_PER_S),
            linger_ns=int(LINGER_S * NS_PER_S), gate_closed_ns=closed_ns, gate_open_ns=open_ns,
        )  # fmt: skip
        scheduler = Scheduler.open(_pins(owner), timing, gate=gate)
        try:
            _prove(scheduler, root)
            scheduler.renew(time.monotonic_ns() + int(LEASE_S * NS_PER_S))
            return cls(scheduler, on_lost)
        except BaseException:
            scheduler.close()
            raise

    @property
    def attached(self) -> bool:
        return self.lost is None

    def set(self, cgroup_id: int, policy: Policy) -> None:
        """The policy of this cgroup from now on. The same again costs nothing."""
        if not self.attached or self._set.get(cgroup_id) == policy:
            return
        try:
            self._scheduler.set_policy(cgroup_id, policy)
        except OSError as error:
            warn_once(_log, f"{_NO_POLICY}: {error}")
        else:
            self._set[cgroup_id] = policy

    def clear(self, cgroup_id: int) -> None:
        if not self.attached or cgroup_id not in self._set:
            return
        try:
            self._scheduler.clear_policy(cgroup_id)
        except OSError as error:
            self._lose(str(error))
        else:
            del self._set[cgroup_id]

    def set_all(self, wanted: Mapping[int, Policy]) -> None:
        """These and no others."""
        for cgroup_id in self._set.keys() - wanted.keys():
            self.clear(cgroup_id)
        for cgroup_id, policy in wanted.items():
            self.set(cgroup_id, policy)

    def renew(self, now_ns: int) -> None:
        """Call this several times per LEASE_S; also notices that the kernel has ended it."""
        if not self.attached:
            return
        try:
            ended = self._scheduler.ended()
            if ended is not None:
                self.wants_restart = ended.wants_restart
                self._lose(str(ended))
                return
            self._scheduler.renew(now_ns + int(LEASE_S * NS_PER_S))
        except OSError as error:
            self._lose(str(error))

    def tune(self, gate_ns: tuple[int, int]) -> None:
        """From the next renewal on: how long the gate is closed at most, and open at least."""
        timing = self._scheduler.timing
        timing.gate_closed_ns, timing.gate_open_ns = gate_ns

    def pause_gate(self, now_ns: int) -> None:
        """Who is to be killed or thawed must be able to run."""
        if not self.attached or not self.has_gate:
            return
        try:
            self._scheduler.pause_gate(now_ns + int(PAUSE_S * NS_PER_S))
        except OSError as error:
            self._lose(str(error))

    def counts(self, cgroup_id: int) -> dict[str, int]:
        return (self._scheduler.counts(cgroup_id) or {}) if self.attached else {}

    def gate_counts(self) -> dict[str, int]:
        return self._scheduler.gate_counts() if self.attached else {}

    def close(self) -> None:
        if self.attached:
            self.lost = "closed"
            self._scheduler.close()

    def _lose(self, reason: str) -> None:
        _log.warning(
            "sched_ext is off from now on, cpu.weight and cpu.max in files go on: %s", reason
        )
        self.lost = reason
        self._on_lost()
        self._scheduler.close()


def _pins(owner: str) -> Pins | None:
    try:
        return Pins.open(owner)
    except NotSupportedError as error:
        _log.warning("the scheduler would end with this process: %s", error)
        return None


def _prove(scheduler: SchedulerLike, root: CgroupLike) -> None:
    """That it is loaded says little: it must have dealt with a process of ours, by its policy."""
    try:
        with scratch_cgroup(root) as cg:
            scheduler.set_policy(cg.id, _PROOF)
            try:
                with ProbeWorker(cg) as worker:
                    worker.ask("spin", _PROOF_SPIN_MS)
                    seen = scheduler.policy_seen(cg.id)
            finally:
                scheduler.clear_policy(cg.id)
    except (OSError, WorkerSilentError) as error:
        raise NotSupportedError(f"the scheduler could not be tried: {error}") from None
    if seen != _PROOF:
        why = scheduler.ended() or "does its parent have the cpu controller for its children?"
        raise NotSupportedError(
            f"the kernel took the scheduler, but it did not see a process of {cg.path}: {why}"
        )
