# SPDX-License-Identifier: Apache-2.0
"""Reads memory.current of running calls: as often as they may reach their line, rarely when
nothing moves.

An idle call costs four readings a second, an idle session none.
"""

from __future__ import annotations

from collections.abc import Callable

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..policy.pacing import SLOWEST_LOOK_NS, next_look_at_ns, next_look_ns
from ..types import inputs as i
from ..units import MIB
from .agent_memory import reclaimable_bytes, sample_agent, sample_agent_if_stale
from .core import RETRY_NS, Core
from .ending import note_biggest
from .records import CallRecord

__all__ = ["Sampler"]

# Who is due so soon is looked at now: one turn of the loop costs more than a look.
_TOGETHER_NS = 4_000_000
_RECLAIMABLE_EVERY_NS = 100_000_000
_AGENT_EVERY_NS = 500_000_000


class Sampler:
    def __init__(
        self, core: Core, *, find_biggest: bool, watch_owner: Callable[[CallRecord], None]
    ) -> None:
        self._core = core
        self._watch_owner = watch_owner
        self._find_biggest = find_biggest
        self._agent_due_ns = 0
        core.on_timer = self.run

    def run(self, now_ns: int) -> None:
        for record in list(self._core.calls.values()):
            if record.next_sample_ns and record.next_sample_ns <= now_ns + _TOGETHER_NS:
                self._sample(record, now_ns)
        if now_ns >= self._agent_due_ns:
            self._agent_due_ns = now_ns + _AGENT_EVERY_NS
            someone_waits = self._core.someone_waits()
            for session in list(self._core.sessions.values()):
                if session.calls:
                    sample_agent(self._core, session, now_ns)
                elif someone_waits:
                    sample_agent_if_stale(self._core, session, now_ns)

    def _sample(self, record: CallRecord, now_ns: int) -> None:
        if record.leaf is None or record.ending is not None:
            record.next_sample_ns = 0
            return
        self._watch_owner(record)
        if record.owed:
            self._core.settle(record)
        text = record.leaf.try_read(files.MEMORY_CURRENT)
        if text is None:
            record.next_sample_ns = next_look_at_ns(now_ns, SLOWEST_LOOK_NS)
            return
        current = int(text)
        gained, elapsed_ns = current - record.last_current_bytes, now_ns - record.looked_ns
        if self._find_biggest and gained > 8 * MIB:
            note_biggest(record, now_ns)
        record.last_current_bytes, record.looked_ns = current, now_ns
        line = record.limits.memory_high_bytes or record.limits.memory_max_bytes
        left = None if line is None else line - current
        record.sample_interval_ns = next_look_ns(
            gained, elapsed_ns, left, record.sample_interval_ns
        )
        record.next_sample_ns = next_look_at_ns(now_ns, record.sample_interval_ns)
        if record.owed:
            record.next_sample_ns = min(record.next_sample_ns, now_ns + RETRY_NS)
        body = {"memory_current_bytes": current}
        self._core.decisions.record(now_ns, "sample", record.session, record.name, body)
        reclaimable = self._reclaimable_for_who_waits(record, record.leaf, now_ns)
        self._core.feed(i.CallSample(now_ns, record.name, current, reclaimable))

    def _reclaimable_for_who_waits(
        self, record: CallRecord, leaf: CgroupLike, now_ns: int
    ) -> int | None:
        """memory.stat costs the kernel more than all other files here together."""
        if now_ns - record.stat_looked_ns < _RECLAIMABLE_EVERY_NS or not self._core.someone_waits():
            return None
        record.stat_looked_ns = now_ns
        return reclaimable_bytes(leaf, record.limits.swap_max_bytes)
