# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the layers `sched_ext` and `gate`: when wanted, and whose policy is what.

A call's policy is set before its command runs. Everything else (another priority, another
wish, a session's own cgroup, what a predecessor left) is put right at the next tick.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from ..bpf.sched_maps import Policy
from ..bpf.sched_plan import loaded_scheduler
from ..cgroupfs.api import CgroupLike
from ..enforce.sched_ext import SchedExtLayer
from ..errors import ConfigError, NotSupportedError
from ..log import get_logger
from ..types.intents import Latency
from ..types.sessions import Mode
from ..units import NS_PER_MS, NS_PER_S
from .config import GATE, SCHED_EXT, Config
from .core import Core
from .records import CallRecord, SessionRecord

__all__ = ["CpuScheduler"]

# Ten renewals per lease; an ejection is told within this time.
_TICK_S = 0.5
_REATTACH_AFTER_S = 1.0
_REATTACH_MOST = 3
_REATTACH_WINDOW_NS = 3600 * NS_PER_S

_log = get_logger(__name__)


class CpuScheduler:
    """`open` it; then tell it of calls that begin and end."""

    def __init__(self, core: Core, config: Config) -> None:
        self._core = core
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._layer: SchedExtLayer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._restarts_ns: list[int] = []
        self._root: CgroupLike | None = None
        self._closed = False
        self.missing: dict[str, str] = {}

    # --- life

    def open(self, root: CgroupLike) -> None:
        """Raises ConfigError if what can't be had is required."""
        daemon, self._root = self._config.daemon, root
        if daemon.cpu_layer != SCHED_EXT:
            return
        try:
            layer = self._open_layer(root)
        except NotSupportedError as error:
            if daemon.cpu_require or daemon.names_gate:
                field = "daemon.cpu_layer" if daemon.cpu_require else "daemon.memory_layers"
                value = SCHED_EXT if daemon.cpu_require else daemon.memory_layers
                remedy = f"use 'files' for the CPU, without requiring more, or: {error}"
                raise ConfigError(field, value, remedy) from None
            self.missing[SCHED_EXT] = str(error)
            _log.warning("sched_ext is off, cpu.weight and cpu.max in files go on: %s", error)
            return
        self._use(layer)
        if daemon.names_gate and not layer.has_gate:
            raise ConfigError(
                "daemon.memory_layers", daemon.memory_layers,
                f"leave '{GATE}' out: {layer.gate_missing}",
            )  # fmt: skip

    def _open_layer(self, root: CgroupLike) -> SchedExtLayer:
        return SchedExtLayer.open(
            root, _owner(root), self._lost, gate=self._config.daemon.wants_gate,
            gate_ns=_gate_ns(self._config),
        )  # fmt: skip

    def _use(self, layer: SchedExtLayer) -> None:
        self._layer = layer
        self.missing = {}
        if layer.gate_missing:
            self.missing[GATE] = layer.gate_missing
            _log.warning("the gate is not all there, events go on: %s", layer.gate_missing)
        # Not at once: at the start the tree is read first, and what is in it keeps its policies.
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def tune(self, config: Config) -> None:
        """Figures of a reloaded configuration that may change while it runs."""
        daemon = self._config.daemon
        self._config = config.model_copy(update={"daemon": daemon})
        if self._layer is not None:
            self._layer.tune(_gate_ns(config))

    def close(self) -> None:
        """Gives the host back to the kernel's own scheduler."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        layer = self._layer
        self._let_go()
        if layer is not None:
            layer.close()

    # --- what happens

    def begin(self, record: CallRecord) -> None:
        if self._layer is not None and record.leaf is not None:
            session = self._core.sessions[record.session]
            if session.mode is Mode.ENFORCE:
                self._layer.set(record.leaf.id, _of_call(session, record))

    def end(self, record: CallRecord) -> None:
        if self._layer is not None and record.leaf is not None:
            self._layer.clear(record.leaf.id)

    def open_gate(self) -> None:
        """For who is killed or thawed: what waits at the gate runs now."""
        if self._layer is not None:
            self._layer.pause_gate(self._core.clock.now_ns())

    def _tick(self) -> None:
        if self._layer is not None:
            self._layer.renew(self._core.clock.now_ns())
        if self._layer is not None:
            self._layer.set_all(self._wanted())
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _wanted(self) -> dict[int, Policy]:
        wanted: dict[int, Policy] = {}
        for session in self._core.sessions.values():
            if session.mode is not Mode.ENFORCE:
                continue
            rank = session.spec.priority
            wanted[session.cgroup.id] = Policy(Latency.STANDARD, rank)
            if session.background is not None:
                wanted[session.background.id] = Policy(Latency.BATCH, rank)
            for record in session.calls.values():
                if record.leaf is not None and record.ending is None:
                    wanted[record.leaf.id] = _of_call(session, record)
        return wanted

    def _lost(self) -> None:
        """The layer said why in the log; only a change of CPUs is a reason to come back."""
        layer = self._layer
        self._let_go()
        if layer is None:
            return
        self.missing[SCHED_EXT] = layer.lost or ""
        now_ns = self._core.clock.now_ns()
        lately = [t for t in self._restarts_ns if now_ns - t < _REATTACH_WINDOW_NS]
        if layer.wants_restart and len(lately) < _REATTACH_MOST:
            self._restarts_ns = [*lately, now_ns]
            self._task = self._loop.create_task(self._reattach())

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._layer = None

    async def _reattach(self) -> None:
        """In a worker: the verifier takes longer than the guardian's patience may be."""
        await asyncio.sleep(_REATTACH_AFTER_S)
        try:
            layer = await asyncio.to_thread(self._reopen)
        except NotSupportedError as error:
            self.missing[SCHED_EXT] = str(error)
            _log.warning("sched_ext stays off: %s", error)
            return
        self._use(layer)
        _log.info("sched_ext is attached again: the host's CPUs had changed")

    def _reopen(self) -> SchedExtLayer:
        assert self._root is not None
        layer = self._open_layer(self._root)
        if self._closed:
            layer.close()
            raise NotSupportedError("the daemon ends")
        return layer

    # --- what is told

    def layers(self) -> list[str]:
        return [SCHED_EXT] if self._layer is not None else []

    def memory_layers(self) -> list[str]:
        return [GATE] if self._layer is not None and self._layer.has_gate else []

    def figures(self, record: CallRecord) -> dict[str, float | None]:
        """Of a running call, for who asks; empty while the kernel's own scheduler runs."""
        if self._layer is None or record.leaf is None:
            return {}
        counts = self._layer.counts(record.leaf.id)
        if not counts:
            return {}
        return {
            "gated_ms": counts["gated_ns"] / NS_PER_MS,
            "gated_count": counts["gated_count"],
            "cpu_throttled_ms": counts["throttled_ns"] / NS_PER_MS,
        }

    def report(self) -> dict[str, Any]:
        """For `host.status`. `ops`: the scheduler that is loaded, whoever did it."""
        gated = self._layer is not None and self._layer.has_gate
        return {
            "by": SCHED_EXT if self._layer is not None else "kernel",
            "ops": loaded_scheduler(),
            "adopted": self._layer.adopted if self._layer is not None else None,
            "gate": {"closed_count": self._layer.gate_counts()} if gated and self._layer else None,
            "why": self.why(),
        }

    def finding(self) -> tuple[str, str]:
        """For `doctor`: whether it is in force, and if not, why."""
        if self._layer is not None:
            return "yes", "sched_ext is active: it took a process of a cgroup of its own"
        other = loaded_scheduler()
        by = f"another one is loaded ({other})" if other else "the kernel's own is active"
        return "no", f"{by}: {self.why()}"

    def why(self) -> str | None:
        """Why the kernel's own scheduler runs; None while ours does."""
        if self._layer is not None:
            return None
        if self._config.daemon.cpu_layer != SCHED_EXT:
            return f"not asked for (cpu_layer is {self._config.daemon.cpu_layer})"
        return self.missing.get(SCHED_EXT)


def _of_call(session: SessionRecord, record: CallRecord) -> Policy:
    return Policy(record.intent.latency or Latency.STANDARD, session.spec.priority)


def _gate_ns(config: Config) -> tuple[int, int]:
    policy = config.policy
    return policy.gate_closed_ms * NS_PER_MS, policy.gate_open_ms * NS_PER_MS


def _owner(root: CgroupLike) -> str:
    """A name for the pins of who works on this tree: no dots, whatever the path has."""
    digest = hashlib.sha256(root.path.encode()).hexdigest()[:12]
    return f"{Path(root.path).name.replace('.', '_')[:64]}-{digest}"
