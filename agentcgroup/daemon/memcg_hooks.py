# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the layer `memcg_ops`: when it is wanted, and which call has which line.

The line follows the grant at once. Once a second the lease is renewed and burst credit that
was earned or spent meanwhile reaches the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ..bpf.memcg_ops import Line
from ..cgroupfs.api import CgroupLike
from ..enforce.memcg_ops import MemcgLayer, line_for
from ..errors import ConfigError, NotSupportedError
from ..log import get_logger
from ..policy.delay import DelayTuning, burst_credit
from ..types.intents import Latency
from ..types.sessions import Mode
from ..units import NS_PER_S
from .config import MEMCG_OPS, Wish
from .core import Core
from .records import CallRecord

__all__ = ["MemcgHooks"]

_TICK_S = 1.0
# Credit reaches the kernel in so many steps, not at every tick.
_CREDIT_STEPS = 4

_log = get_logger(__name__)


class MemcgHooks:
    """`open` it; then tell it of calls that begin, get another grant, meet it, end."""

    def __init__(self, core: Core, tuning: DelayTuning) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._layer: MemcgLayer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.tuning = tuning
        self.missing: dict[str, str] = {}

    def open(self, root: CgroupLike, wish: Wish) -> None:
        """Raises ConfigError if the hooks are required and can't be had."""
        if wish is Wish.OFF:
            return
        try:
            layer = MemcgLayer.open(root, self._lost)
        except NotSupportedError as error:
            if wish is Wish.REQUIRED:
                raise ConfigError(
                    "daemon.memcg_ops", wish.value, f"use 'on' to go on without it, or: {error}"
                ) from None
            self.missing[MEMCG_OPS] = str(error)
            _log.warning("memcg_ops is off, files and events go on: %s", error)
            return
        self._layer = layer
        # A kernel whose links can't be polled can't detach them from outside either.
        with contextlib.suppress(PermissionError):
            self._loop.add_reader(layer.fileno(), layer.check)
        self._tick()

    def layers(self) -> list[str]:
        return [MEMCG_OPS] if self._layer is not None else []

    def report(self) -> dict[str, Any] | None:
        """For `host.status`; None while it is off."""
        if self._layer is None:
            return None
        offer = self._layer.offer
        return {"by": offer.by, "protection": offer.protection, **self._layer.counts()}

    def begin(self, record: CallRecord) -> None:
        self._draw(record)

    def granted(self, record: CallRecord) -> None:
        self._draw(record)

    def end(self, record: CallRecord) -> None:
        if self._layer is not None and record.leaf is not None:
            self._layer.draw(record.leaf.id, None)

    def close(self) -> None:
        layer = self._layer
        self._lost()
        if layer is not None:
            layer.close()

    def _draw(self, record: CallRecord) -> None:
        if self._layer is None or record.leaf is None:
            return
        enforced = self._core.sessions[record.session].mode is Mode.ENFORCE
        self._layer.draw(record.leaf.id, self._line(record) if enforced else None)

    def _line(self, record: CallRecord) -> Line | None:
        assert self._layer is not None
        calm_since_ns = max(record.at_line_ns, record.placed_ns or 0)
        calm_s = (self._core.clock.now_ns() - calm_since_ns) / NS_PER_S
        calm_s = int(calm_s * _CREDIT_STEPS) / _CREDIT_STEPS
        latency = record.intent.latency or Latency.STANDARD
        return line_for(
            record.limits.memory_high_bytes, burst_credit(calm_s, latency, self.tuning),
            self._core.sessions[record.session].spec.priority, latency, self.tuning,
            protection=self._layer.offer.protection,
        )  # fmt: skip

    def _tick(self) -> None:
        if self._layer is None:
            return
        self._layer.renew(self._core.clock.now_ns())
        for record in self._core.calls.values():
            if record.ending is None:
                self._draw(record)
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _lost(self) -> None:
        """The layer said why in the log; here it is only let go."""
        if self._timer is not None:
            self._timer.cancel()
        if self._layer is not None:
            self._loop.remove_reader(self._layer.fileno())
            self.missing[MEMCG_OPS] = self._layer.lost or ""
        self._layer = None
