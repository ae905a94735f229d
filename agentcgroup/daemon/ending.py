# SPDX-License-Identifier: Apache-2.0
"""The end of a tool call: kill what must go, read figures, store the outcome, rmdir.

In this order, so that a crash at any point leaves either a leaf that recovery ends
again, or a stored outcome and an empty leaf that recovery only removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from ..cgroupfs import files, proc
from ..cgroupfs.api import CgroupLike
from ..enforce import files as enforce
from ..errors import CgroupGoneError
from ..log import get_logger
from ..policy.feedback import EndFacts, build_outcome
from ..types.intents import Background
from ..types.outcomes import BiggestProcess, Outcome
from ..units import MIB
from . import layout
from .core import Core
from .crashpoints import crash_point
from .figures import figures
from .outcomes import OutcomeStore
from .records import CallRecord, SessionRecord

__all__ = ["Ender", "note_biggest"]

_log = get_logger(__name__)
_DIE_STEPS_S = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
_DIE_PATIENCE_S = 10.0


class Ender:
    def __init__(self, core: Core, root: CgroupLike, store: OutcomeStore) -> None:
        self._core = core
        self._root = root
        self._store = store

    async def end(
        self,
        record: CallRecord,
        exit_code: int | None,
        signal: int | None,
        *,
        lost: bool = False,
    ) -> Outcome:
        """Idempotent per record: a second caller gets the first one's outcome."""
        if record.ending is not None:
            outcome: Outcome = await asyncio.shield(record.ending)
            return outcome
        record.ending = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._end(record, exit_code, signal, lost=lost)
        except BaseException as error:
            record.ending.set_exception(error)
            record.ending.exception()  # heard of here, should nobody else have asked
            raise
        record.ending.set_result(outcome)
        return outcome

    async def _end(
        self, record: CallRecord, exit_code: int | None, signal: int | None, *, lost: bool
    ) -> Outcome:
        crash_point("end.received")
        session = self._core.sessions[record.session]
        try:
            survivors = await self._empty(record, session)
        except CgroupGoneError:
            survivors = ()  # with the container whose cgroup it was in
        crash_point("end.killed")
        facts = self._facts(record, session, exit_code, signal, survivors, lost=lost)
        outcome = build_outcome(facts)
        crash_point("end.figures")
        self._store.append(outcome, record.key)
        crash_point("end.stored")
        await self._remove(record)
        crash_point("end.removed")
        self._forget(record, session, outcome)
        return outcome

    async def _empty(self, record: CallRecord, session: SessionRecord) -> tuple[int, ...]:
        leaf = record.leaf
        if leaf is None or not leaf.populated():
            return ()
        if record.intent.background is Background.KEEP and record.killed is None:
            return self._to_background(leaf, session)
        self._core.open_gate()
        enforce.kill(leaf, record.limits)
        if record.frozen_since_ns is not None:
            leaf.freeze(False)
        waited = 0.0
        for step in range(10_000):
            if not leaf.populated():
                break
            delay = _DIE_STEPS_S[min(step, len(_DIE_STEPS_S) - 1)]
            await asyncio.sleep(delay)
            waited += delay
            if waited > _DIE_PATIENCE_S:
                _log.error("%s: processes survive SIGKILL: %s", record.name, leaf.procs())
                break
        return ()

    def _to_background(self, leaf: CgroupLike, session: SessionRecord) -> tuple[int, ...]:
        """Survivors of a call that asked to keep them; first to be evicted, never unlimited."""
        if session.background is None:
            session.background = session.tools.create(layout.BACKGROUND, exist_ok=True)
            with contextlib.suppress(OSError):
                session.background.write(files.CPU_WEIGHT, "10")
                session.background.write(files.MEMORY_SWAP_MAX, "0")
                session.background.write(files.PIDS_MAX, "512")
        moved: set[int] = set()
        for _ in range(20):
            pids = [pid for pid in leaf.procs() if pid]
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    session.background.move(pid)
                    moved.add(pid)
        return tuple(sorted(moved))

    def _facts(
        self,
        record: CallRecord,
        session: SessionRecord,
        exit_code: int | None,
        signal: int | None,
        survivors: tuple[int, ...],
        *,
        lost: bool,
    ) -> EndFacts:
        now = self._core.clock.now_ns()
        leaf = record.leaf
        return EndFacts(
            call=record.name,
            session=record.session,
            intent=record.intent,
            exit_code=exit_code,
            signal=signal,
            killed=record.killed,
            because=record.because if record.killed else None,
            lost=lost,
            waited_ms=round(record.waited_ms, 3),
            frozen_ms=round(self._frozen_ns(record, now) / 1e6, 3),
            duration_s=self._duration_s(record, now),
            background_pids=survivors,
            biggest=record.biggest,
            pids_max=record.limits.pids_max,
            learned_bytes=record.learned_bytes,
            tools_bytes=self._tools_bytes(session),
            ended_epoch_s=time.time(),
            **(figures(record, session, leaf, self._root) if leaf is not None else {}),
        )

    async def _remove(self, record: CallRecord) -> None:
        leaf, record.leaf = record.leaf, None
        if leaf is None:
            return
        self._core.by_cgroup.pop(leaf.id, None)
        for _ in range(100):
            try:
                leaf.remove()
                break
            except CgroupGoneError:
                break
            except OSError:
                # EBUSY while the last process is still on its way out, or own subgroups.
                with contextlib.suppress(OSError):
                    leaf.remove_tree()
                    break
                await asyncio.sleep(0.01)
        else:
            _log.warning("%s: its empty cgroup is busy; the janitor removes it later", record.name)
        leaf.close()

    def _forget(self, record: CallRecord, session: SessionRecord, outcome: Outcome) -> None:
        self._core.calls.pop(record.name, None)
        session.calls.pop(record.name, None)
        session.keys.pop(record.key, None)
        self._core.call_ended(record, outcome)

    def _tools_bytes(self, session: SessionRecord) -> int:
        budget = layout.policy_budget_bytes(session.spec.memory)
        host = self._core.state.budget_bytes
        return min(host, host if budget is None else budget - session.reserve_bytes)

    @staticmethod
    def _frozen_ns(record: CallRecord, now_ns: int) -> int:
        running = now_ns - record.frozen_since_ns if record.frozen_since_ns is not None else 0
        return record.frozen_ns + running

    @staticmethod
    def _duration_s(record: CallRecord, now_ns: int) -> float | None:
        return None if record.placed_ns is None else round((now_ns - record.placed_ns) / 1e9, 6)


def note_biggest(record: CallRecord, now_ns: int) -> None:
    """Remember the largest process while the call grows: after an OOM kill it is gone."""
    if record.leaf is None:
        return
    found = proc.biggest_process([pid for pid in record.leaf.procs()[:256] if pid])
    if found is None:
        return
    known = record.biggest.rss_bytes if record.biggest and record.biggest.rss_bytes else 0
    if (found.rss_bytes or 0) + MIB >= known:
        record.biggest = BiggestProcess(
            pid=found.pid, command=found.command, rss_bytes=found.rss_bytes
        )
