# SPDX-License-Identifier: Apache-2.0
"""Layer `memcg_ops`: delays in the kernel for calls above their grant. Off by default.

It only slows down what `files` and `events` already bound, so losing it is never a danger:
at the first error it lets go of the hooks, says why in one line and stays off. A lease in the
kernel ends every delay and protection when nobody renews it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ..bpf.memcg_ops import Line, MemcgOps, Offer
from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..cgroupfs.probe import scratch_cgroup
from ..cgroupfs.probe_worker import ProbeWorker, WorkerSilentError
from ..errors import NotSupportedError
from ..log import get_logger
from ..policy.delay import STEPS, DelayTuning, delay_curve
from ..types.intents import Latency, Priority
from ..units import MIB, NS_PER_S

__all__ = ["LEASE_S", "Hooks", "MemcgLayer", "line_for"]

LEASE_S = 5.0
_PROOF_LEASE_S = 30.0
_PROOF_PATIENCE_S = 10.0
_PROOF_DELAY_MS = 400
# Beside it the overshoot is small, and so is the kernel's own penalty for it.
_PROOF_BASE_BYTES = 32 * MIB
# Several charges, but below a huge page.
_PROOF_TOUCH_BYTES = MIB + 3 * MIB // 4
_PROOF_ATTEMPTS = 3
_NO_STEP_BYTES = 1 << 62

_log = get_logger(__name__)


class Hooks(Protocol):
    """What the layer needs of `MemcgOps`."""

    @property
    def offer(self) -> Offer: ...
    def set(self, cgroup_id: int, line: Line) -> None: ...
    def clear(self, cgroup_id: int) -> None: ...
    def renew(self, until_ns: int) -> None: ...
    def counts(self) -> dict[str, int]: ...
    def fileno(self) -> int: ...
    def detached(self) -> bool: ...
    def close(self) -> None: ...


def line_for(
    grant_bytes: int | None,
    credit: float,
    priority: Priority,
    latency: Latency,
    tuning: DelayTuning,
    *,
    protection: bool,
) -> Line | None:
    """What the kernel is told about a call; None: nothing. `grant_bytes` None: no line."""
    if grant_bytes is None:
        return None
    curve = delay_curve(grant_bytes, credit, priority, latency, tuning)
    if curve is not None:
        return Line(curve.start_bytes, curve.stop_bytes, curve.step_bytes, curve.delay_ms)
    return Line(protected_bytes=grant_bytes) if protection else None


class MemcgLayer:
    """Lines of calls in the kernel, for as long as the hooks are attached."""

    def __init__(self, hooks: Hooks, on_lost: Callable[[], None]) -> None:
        """Owns `hooks`; `on_lost` is called once, before they are closed."""
        self._hooks = hooks
        self._on_lost = on_lost
        self._drawn: dict[int, Line] = {}
        self.offer = hooks.offer
        self.lost: str | None = None

    @classmethod
    def open(cls, root: CgroupLike, on_lost: Callable[[], None]) -> MemcgLayer:
        """Attach, and see that it works in a throw-away cgroup below `root`.

        Raises NotSupportedError with the reason; then nothing is attached.
        """
        hooks = MemcgOps.open()
        try:
            _prove(hooks, root)
        except BaseException:
            hooks.close()
            raise
        return cls(hooks, on_lost)

    @property
    def attached(self) -> bool:
        return self.lost is None

    def fileno(self) -> int:
        """Readable when `check` should be called."""
        return self._hooks.fileno()

    def check(self) -> None:
        """Notice that somebody else has detached the hooks."""
        if self.attached and self._hooks.detached():
            self._lose("its hooks were detached from outside")

    def draw(self, cgroup_id: int, line: Line | None) -> None:
        """The line of this cgroup from now on; None: none. The same again costs nothing."""
        if not self.attached or self._drawn.get(cgroup_id) == line:
            return
        try:
            if line is None:
                del self._drawn[cgroup_id]
                self._hooks.clear(cgroup_id)
            else:
                self._hooks.set(cgroup_id, line)
                self._drawn[cgroup_id] = line
        except OSError as error:
            self._lose(str(error))

    def renew(self, now_ns: int) -> None:
        """Call this several times per LEASE_S."""
        if not self.attached:
            return
        try:
            self._hooks.renew(now_ns + int(LEASE_S * NS_PER_S))
        except OSError as error:
            self._lose(str(error))

    def counts(self) -> dict[str, int]:
        return self._hooks.counts() if self.attached else {}

    def close(self) -> None:
        if self.attached:
            self.lost = "closed"
            self._hooks.close()

    def _lose(self, reason: str) -> None:
        _log.warning("memcg_ops is off from now on, files and events go on: %s", reason)
        self.lost = reason
        self._on_lost()
        self._hooks.close()


def _prove(hooks: Hooks, root: CgroupLike) -> None:
    """A name in BTF is no capability: allocations over a line must really take longer.

    The kernel's own penalty slows them as well, so the same is done without a line first.
    """
    slow = Line(1, 1, _NO_STEP_BYTES, (_PROOF_DELAY_MS,) * STEPS)
    try:
        with scratch_cgroup(root) as cg, ProbeWorker(cg) as worker:
            hooks.renew(time.monotonic_ns() + int(_PROOF_LEASE_S * NS_PER_S))
            worker.ask("touch", _PROOF_BASE_BYTES, timeout_s=_PROOF_PATIENCE_S)
            for _ in range(_PROOF_ATTEMPTS):
                without_s = _overshoot_s(cg, worker)
                hooks.set(cg.id, slow)
                with_s = _overshoot_s(cg, worker)
                hooks.clear(cg.id)
                if with_s - without_s > _PROOF_DELAY_MS / 2000:
                    return
    except NotSupportedError:
        raise
    except (OSError, WorkerSilentError) as error:
        raise NotSupportedError(f"the hooks could not be tried: {error}") from None
    raise NotSupportedError(
        f"{hooks.offer.by} took the hooks, but an allocation over its line took {with_s:.3f} s"
        f" with a delay of {_PROOF_DELAY_MS} ms and {without_s:.3f} s without"
    )


def _overshoot_s(cg: CgroupLike, worker: ProbeWorker) -> float:
    """How long it takes to go a little over a line that is drawn for it."""
    current_bytes = int(cg.read(files.MEMORY_CURRENT))
    cg.write(files.MEMORY_HIGH, str(current_bytes + MIB))
    start_s = time.monotonic()
    worker.ask("touch", _PROOF_TOUCH_BYTES, timeout_s=_PROOF_PATIENCE_S)
    return time.monotonic() - start_s
