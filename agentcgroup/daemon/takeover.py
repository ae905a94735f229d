# SPDX-License-Identifier: Apache-2.0
"""What the guardian did while this daemon was silent, taken over into the daemon's picture.

A daemon that was stopped, swapped out or starved goes on as if no time had passed; its
guardian meanwhile thawed leaves and raised grants and counted up the epoch in the
tree's xattrs. The files are the truth: grants and frozen states are read back from them.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError
from ..log import get_logger
from ..types import inputs as i
from .core import Core
from .records import EPOCH_TIME_XATTR, EPOCH_XATTR, CallRecord

__all__ = ["Takeover", "epoch_of", "relieved_ns"]

_log = get_logger(__name__)


def epoch_of(root: CgroupLike) -> int:
    """How often a guardian took over in this tree."""
    return _number(root, EPOCH_XATTR) or 0


def relieved_ns(root: CgroupLike, now_ns: int) -> int:
    """When the last epoch began (monotonic, at most `now_ns`): from then on all ran."""
    began_epoch_ns = _number(root, EPOCH_TIME_XATTR)
    if began_epoch_ns is None:
        return now_ns
    return min(now_ns, now_ns - (time.time_ns() - began_epoch_ns))


class Takeover:
    """`check` with every heartbeat: one xattr, and one file for each frozen call."""

    def __init__(self, core: Core, root: CgroupLike) -> None:
        self._core = core
        self._root = root
        self.epoch = epoch_of(root)

    def check(self) -> None:
        epoch = epoch_of(self._root)
        calls = [c for c in self._core.calls.values() if c.leaf is not None and c.ending is None]
        if epoch != self.epoch:
            self.epoch = epoch
            _log.warning("the guardian acted meanwhile (epoch %d): taking over its grants", epoch)
        else:
            # It repeats its relief until our heartbeats reach it.
            calls = [c for c in calls if c.frozen_since_ns is not None and not _frozen(c)]
        for record in calls:
            with contextlib.suppress(CgroupGoneError):
                self._adopt(record)
        if calls:
            self._core.feed(i.Tick(self._core.clock.now_ns()))

    def _adopt(self, record: CallRecord) -> None:
        known = self._core.state.calls.get(record.name)
        if known is None or not known.runs or record.leaf is None:
            return
        now = self._core.clock.now_ns()
        frozen = _frozen(record)
        if not frozen:
            record.note_thawed(max(record.frozen_since_ns or 0, relieved_ns(self._root, now)))
        elif record.frozen_since_ns is None:
            record.frozen_since_ns = now
        grant = record.leaf.read_int(files.MEMORY_HIGH)
        record.limits = replace(record.limits, memory_high_bytes=grant)
        current = record.leaf.read_int(files.MEMORY_CURRENT) or 0
        self._core.feed(
            i.CallRestored(
                now, record.session, record.name, record.intent, known.started_ns,
                grant, current, frozen,
            )
        )  # fmt: skip
        record.save()


def _frozen(record: CallRecord) -> bool:
    return record.leaf is not None and (record.leaf.try_read(files.CGROUP_FREEZE) or "0") == "1"


def _number(root: CgroupLike, name: str) -> int | None:
    raw = root.get_xattr(name)
    return int(raw) if raw and raw.isdigit() else None
