# SPDX-License-Identifier: Apache-2.0
"""Our scheduler in the kernel: load and attach it, or adopt the one that a predecessor pinned.

A predecessor's is adopted if it came from the very same object; any other is detached first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Mapping

from ..errors import InconclusiveError, NotSupportedError
from ..log import get_logger
from .choose import GATE, SCHED_OBJECT
from .decode import check_version
from .libbpf import load_libbpf
from .objects import BpfObject, hung_up, load_object, read_image
from .pins import Pins, close_all
from .sched_maps import MAPS, ExitInfo, SchedulerMaps, Timing, pin_name
from .sched_plan import LOADED, Plan, count_cpus, loaded_scheduler, make_plan

__all__ = ["NAME", "Scheduler", "load_programs"]

NAME = "agentcgroup"

# The name of the link's pin, set last: with it a set of pins is whole.
_LINK = "ops"
_GATED = "-gate"
_SETTLES_WITHIN_S = 2.0

_log = get_logger(__name__)


class Scheduler(SchedulerMaps):
    """The attached scheduler. `close` detaches it; of a killed owner the pins keep it."""

    def __init__(self, opened: BpfObject, fds: dict[str, int]) -> None:
        """Use `open`. Owns both."""
        super().__init__(opened, fds)
        self._object = opened
        self._pins: Pins | None = None
        self._label = ""
        self.has_gate = False
        self.gate_missing = ""
        self.adopted = False

    @classmethod
    def open(cls, pins: Pins | None, timing: Timing, *, gate: bool) -> Scheduler:
        """Adopt what is pinned and fits, else attach; `timing` must hold a lease already.

        Raises NotSupportedError; then nothing of ours is attached.
        """
        try:
            return cls._open(pins, timing, make_plan(), gate=gate)
        except InconclusiveError as error:
            raise NotSupportedError(str(error)) from None
        except OSError as error:
            if isinstance(error, NotSupportedError):
                raise
            raise NotSupportedError(f"the scheduler can't be used: {error}") from error

    @classmethod
    def _open(cls, pins: Pins | None, timing: Timing, plan: Plan, *, gate: bool) -> Scheduler:
        image = read_image(SCHED_OBJECT)
        label = hashlib.sha256(image).hexdigest()[:16] + (_GATED if gate else "")
        if pins is not None:
            adopted = cls._adopt(pins, label, image, plan)
            if adopted is not None:
                adopted._go_on(timing)
                return adopted
            for other in pins.labels():
                _end_pinned(pins, other)
        scheduler = cls._attach(timing, plan, gate=gate)
        if pins is not None:
            scheduler._keep(pins, label)
        return scheduler

    @classmethod
    def _adopt(cls, pins: Pins, label: str, image: bytes, plan: Plan) -> Scheduler | None:
        fds = pins.find(label)
        if not {_LINK, *map(pin_name, MAPS)} <= set(fds):
            close_all(fds)
            return None
        scheduler = cls(BpfObject(image, SCHED_OBJECT), fds)
        if not scheduler.runs():
            scheduler._let_go()
            return None
        scheduler._pins, scheduler._label, scheduler.adopted = pins, label, True
        if label.endswith(_GATED):
            refused = dict.fromkeys(plan.gate, "the kernel refused it before")
            scheduler._note_gate(plan, {n: why for n, why in refused.items() if n not in fds})
        return scheduler

    @classmethod
    def _attach(cls, timing: Timing, plan: Plan, *, gate: bool) -> Scheduler:
        loaded, refused = load_programs(plan, gate=gate)
        fds: dict[str, int] = {}
        try:
            fds.update({pin_name(name): os.dup(loaded.map_fd(name)) for name in MAPS})
            scheduler = cls(loaded, fds)
        except BaseException:
            close_all(fds)
            loaded.close()
            raise
        try:
            scheduler.timing = timing
            scheduler._renumber()
            fds[_LINK] = os.dup(scheduler._attach_hooks(plan.table))
            if gate:
                scheduler._attach_gate(plan, refused)
        except BaseException:
            scheduler._let_go()
            raise
        return scheduler

    def _attach_hooks(self, table: str) -> int:
        deadline_s = time.monotonic() + _SETTLES_WITHIN_S
        while True:
            try:
                return self._object.attach_hooks(table)
            except OSError as error:
                # A dead predecessor's takes a moment to leave.
                may_go = error.errno == errno.EBUSY and loaded_scheduler() in (None, NAME)
                if not may_go or time.monotonic() > deadline_s:
                    raise NotSupportedError(self._refusal(error)) from None
            time.sleep(0.02)

    def _refusal(self, error: OSError) -> str:
        if error.errno == errno.EBUSY:
            other = loaded_scheduler() or "one that just leaves"
            return f"another scheduler is loaded: {other} (see {LOADED}): stop it first"
        told = self.exit_info()
        why = f" ({told})" if told else ""
        return f"the kernel refuses the scheduler: {os.strerror(error.errno or 0)}{why}"

    def _attach_gate(self, plan: Plan, refused: dict[str, str]) -> None:
        for name in plan.gate:
            if name in refused:
                continue
            try:
                self._object.attach(name)
            except NotSupportedError as error:
                refused[name] = str(error)
            else:
                self._fds[name] = os.dup(self._object.link_fd(name))
        self._note_gate(plan, refused)

    def _note_gate(self, plan: Plan, refused: Mapping[str, str]) -> None:
        """Half of it is a gate, too: who goes over his grant reclaims sooner or later."""
        self.has_gate = any(name in self._fds for name in plan.gate)
        told = [f"{name}: {why}" for name, why in refused.items()]
        self.gate_missing = "; ".join(filter(None, [plan.missing, *told]))

    def _keep(self, pins: Pins, label: str) -> None:
        first = [pin_name(name) for name in MAPS]
        names = [*first, *sorted(set(self._fds) - {*first, _LINK}), _LINK]
        try:
            pins.keep(label, {name: self._fds[name] for name in names})
        except OSError as error:
            _log.warning("the scheduler would end with this process: %s", error)
            return
        self._pins, self._label = pins, label

    def ended(self) -> ExitInfo | None:
        """Why it does not run any more; None while it does."""
        told = self.exit_info()
        if told is None and hung_up(self._fds[_LINK]):
            return ExitInfo("its link was detached from outside", "")
        return told

    def runs(self) -> bool:
        return self.ended() is None and loaded_scheduler() == NAME

    def close(self) -> None:
        """Detach: when this returns, the kernel's own scheduler runs."""
        self._lib.bpf_link_detach(self._fds[_LINK])
        if self._pins is not None:
            self._pins.forget(self._label)
        self._let_go()

    def _let_go(self) -> None:
        close_all(self._fds)
        self._object.close()


def load_programs(plan: Plan, *, gate: bool) -> tuple[BpfObject, dict[str, str]]:
    """With the gate's programs as far as the kernel takes them; the others it must take.

    Returns the loaded object, nothing attached, and why each program that is left out is.
    """

    def configure(opened: BpfObject) -> None:
        check_version(opened.read_constant("acg_abi_version"))
        try:
            opened.leave_out(plan.left_out)
        except OSError:
            version = load_libbpf().version.removeprefix("v")
            raise NotSupportedError(
                f"libbpf {version} knows no links of schedulers: install 1.3 or newer"
            ) from None
        opened.set_constant("acg_cpu_count", count_cpus())
        opened.set_constant("acg_reads_limits", int(bool(plan.unfit)))

    listed = BpfObject(read_image(SCHED_OBJECT), SCHED_OBJECT)
    names = set(listed.program_names)
    listed.close()
    gates = {program.name for alternative in GATE.alternatives for program in alternative}
    needed = names - plan.unfit - gates
    loaded, refused = load_object(
        SCHED_OBJECT, [*sorted(needed), *(plan.gate if gate else ())], configure
    )
    if loaded is not None and not needed & set(refused):
        return loaded, refused
    if loaded is not None:
        loaded.close()
    reasons = {why for name, why in refused.items() if name in needed}
    raise NotSupportedError(f"the kernel refuses the scheduler: {'; '.join(sorted(reasons))}")


def _end_pinned(pins: Pins, label: str) -> None:
    """What a predecessor left that is not what we want: of another build, or dead."""
    fds = pins.find(label)
    if _LINK in fds:
        load_libbpf().bpf_link_detach(fds[_LINK])
    pins.forget(label)
    close_all(fds)
