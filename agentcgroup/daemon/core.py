# SPDX-License-Identifier: Apache-2.0
"""The heart of the daemon: inputs go through policy, its actions go to the kernel.

Everything runs on one event loop; only writes that may reclaim go to a worker. Times
are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..cgroupfs import files, pidfd
from ..cgroupfs.api import CgroupLike
from ..clock import Clock
from ..enforce import files as enforce
from ..errors import CgroupGoneError
from ..log import get_logger
from ..policy.engine import new_state, next_deadline_ns, step
from ..policy.reclaim import anyone_waits
from ..policy.state import PolicyConfig
from ..protocol.errors import Kind, ProtocolError
from ..types import actions as act
from ..types import inputs as i
from ..types.limits import Limits
from ..types.outcomes import Outcome, Reason
from ..types.sessions import Mode
from .crashpoints import crash_point
from .decisions import Decisions
from .records import CallRecord, SessionRecord

__all__ = ["RETRY_NS", "Core"]

_log = get_logger(__name__)
RETRY_NS = 50_000_000
"""How soon what the kernel refused is written again: others may hold what was given already."""
_SIGTERM = 15
# Whatever else ended a call, it may have wanted more memory later.
_TRUE_PEAK = frozenset({Reason.COMPLETED, Reason.FAILED, Reason.OOM_KILLED})


class Core:
    """Owns policy state, the live records and the timer."""

    def __init__(
        self, budget_bytes: int, config: PolicyConfig, clock: Clock, decisions: Decisions
    ) -> None:
        self.clock = clock
        self.decisions = decisions
        self.state = new_state(budget_bytes, config)
        self.sessions: dict[str, SessionRecord] = {}
        self.in_place: dict[str, str] = {}  # path of an adopted cgroup -> name of its session
        self.calls: dict[str, CallRecord] = {}
        self.by_cgroup: dict[int, CallRecord] = {}
        self.on_timer: Callable[[int], int | None] | None = None
        self.on_call_ended: Callable[[CallRecord, Outcome], None] | None = None
        self.on_grant: Callable[[CallRecord], None] = _nothing
        self.open_gate: Callable[[], None] = lambda: None
        self.scheduled: Callable[[CallRecord], dict[str, float | None]] = lambda _record: {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns: int | None = None
        self._in_timer = False
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="reclaim")
        self._lowering: set[str] = set()
        self._told_refused: set[str] = set()
        self._apply: dict[type[Any], Callable[[Any], None]] = {
            act.Place: self._place,
            act.Wait: self._wait,
            act.Refuse: self._refuse,
            act.SetGrant: self._set_grant,
            act.SetLimits: self._set_limits,
            act.Reclaim: self._reclaim,
            act.Freeze: self._freeze,
            act.Thaw: self._thaw,
            act.Terminate: self._terminate,
            act.Kill: self._kill,
        }

    def feed(self, what: i.Input) -> None:
        """One input through policy; every action is logged, then applied."""
        self.state, actions = step(self.state, what)
        for action in actions:
            session = self.sessions.get(action.session)
            applied = session is None or session.mode is Mode.ENFORCE
            self.decisions.decided(what.t_ns, action, applied=applied)
            if not applied and not isinstance(action, act.Place | act.Wait | act.Refuse):
                continue
            try:
                self._apply[type(action)](action)
            except CgroupGoneError:
                _log.debug("%s: cgroup is gone", action)
            except OSError as error:
                self._refused(action, error)
        self.schedule()

    def learn(self, outcomes: Iterable[Outcome]) -> None:
        """From what is kept of earlier calls, oldest first."""
        now = self.clock.now_ns()
        for outcome in outcomes:
            if outcome.reason in _TRUE_PEAK and outcome.command and outcome.peak_memory_bytes:
                oom_killed = outcome.reason is Reason.OOM_KILLED
                self.feed(
                    i.PastPeak(now, outcome.command, outcome.peak_memory_bytes, oom_killed)
                )  # fmt: skip

    def someone_waits(self) -> bool:
        return anyone_waits(self.state)

    def call_ended(self, record: CallRecord, outcome: Outcome) -> None:
        """After the outcome is stored and the leaf gone: policy gets the memory back."""
        record.close_owner(self._loop)
        now = self.clock.now_ns()
        if self.decisions.wanted:
            body = outcome.model_dump(mode="json", exclude={"call", "session"})
            self.decisions.record(now, "call_end", record.session, record.name, body)
        self.record_session_sample(record.session, now)
        if self.on_call_ended is not None:
            self.on_call_ended(record, outcome)
        self.feed(
            i.CallEnd(
                now, record.name,
                outcome.peak_memory_bytes if outcome.reason in _TRUE_PEAK else None,
                outcome.reason is Reason.OOM_KILLED,
            )
        )  # fmt: skip

    def record_session_sample(self, name: str, t_ns: int) -> None:
        """What the whole session holds, for the log: a trace of it can be replayed."""
        session = self.sessions.get(name)
        if session is None or not self.decisions.wanted:
            return
        text = session.cgroup.try_read(files.MEMORY_CURRENT)
        if text is not None:
            body = {"memory_current_bytes": int(text)}
            self.decisions.record(t_ns, "sample", name, None, body)

    def settle(self, record: CallRecord) -> None:
        """Write once more what the kernel refused: the kill, else frozen or not, and the line."""
        if record.leaf is None:
            return
        try:
            if record.killed is not None:
                self.open_gate()
                enforce.kill(record.leaf, record.limits)
            else:
                record.leaf.freeze(record.frozen_since_ns is not None)
                self._write_line(record, record.leaf)
        except OSError:
            return
        record.owed = False
        self._told_refused.clear()

    def _write_line(self, record: CallRecord, leaf: CgroupLike) -> None:
        """Whichever way it goes from what the kernel has."""
        there, wish = leaf.try_read(files.MEMORY_HIGH), record.limits.memory_high_bytes
        if wish is not None and (there == files.MAX or int(there or 0) > wish):
            self._lower(record)
            return
        enforce.set_grant(leaf, wish)
        if record.frozen_since_ns is None:
            enforce.wake(leaf)
        record.high_since_raise = record.raised_unasked = False

    def _refused(self, action: act.Action, error: OSError) -> None:
        """One line for each kind of action, however often it is tried until it works again."""
        record, kind = self.calls.get(action.call), type(action).__name__
        if record is not None:
            record.owed = True
            if record.next_sample_ns:
                soon_ns = self.clock.now_ns() + RETRY_NS
                record.next_sample_ns = min(record.next_sample_ns, soon_ns)
        if kind not in self._told_refused:
            self._told_refused.add(kind)
            _log.warning("cannot apply %s, it is tried until it works: %s", kind, error)

    def schedule(self) -> None:
        """Arm the timer for the earliest of policy's deadline and the sampler's.

        One that is armed too early stays: it looks again when it fires, which is cheaper
        than a new timer for every call that begins and ends.
        """
        if self._in_timer:
            return
        due = [t for t in (next_deadline_ns(self.state), self._sample_due()) if t is not None]
        when = min(due, default=None)
        if when is None or (self._timer_ns is not None and self._timer_ns <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = when
        delay_s = max(0.0, (when - self.clock.now_ns()) / 1e9)
        self._timer = self._loop.call_later(delay_s, self._fire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _sample_due(self) -> int | None:
        return min(
            (c.next_sample_ns for c in self.calls.values() if c.next_sample_ns), default=None
        )

    def _fire(self) -> None:
        self._timer = self._timer_ns = None
        now = self.clock.now_ns()
        self._in_timer = True
        try:
            if self.on_timer is not None:
                self.on_timer(now)
            due = next_deadline_ns(self.state)
            if due is not None and due <= now:
                self.feed(i.Tick(now))
        finally:
            self._in_timer = False
            self.schedule()

    # --- actions

    def _place(self, action: act.Place) -> None:
        record = self.calls[action.call]
        record.limits = self._kernel_limits(action.limits)
        learned = action.because.figures.get("learned_bytes")
        record.learned_bytes = None if learned is None else int(learned)
        record.replanned = action.because.code is act.Code.REPLANNED
        if record.admitted is not None and not record.admitted.done():
            record.admitted.set_result(None)

    def _wait(self, action: act.Wait) -> None:
        self.calls[action.call].because = action.because

    def _refuse(self, action: act.Refuse) -> None:
        record = self.calls[action.call]
        if record.admitted is not None and not record.admitted.done():
            message = f"the tool call was not started: {action.because.text}"
            record.admitted.set_exception(
                ProtocolError(Kind(action.kind), message, field="intent", remedy=action.remedy)
            )

    def _set_grant(self, action: act.SetGrant) -> None:
        record = self.calls[action.call]
        old = record.limits.memory_high_bytes
        new = self._grant(action.grant_bytes, record.limits.memory_max_bytes)
        record.limits = replace(record.limits, memory_high_bytes=new)
        crash_point("grant.decided")
        if record.leaf is None or old == new:
            return
        self.on_grant(record)
        if new is not None and (old is None or new < old):
            record.raised_unasked = False
            self._lower(record)
            return
        enforce.set_grant(record.leaf, new)
        # Word that the line was met may still be on its way, or have been left out.
        met = record.high_since_raise or record.last_current_bytes >= (old or 0)
        if met and record.frozen_since_ns is None:
            enforce.wake(record.leaf)
        record.raised_unasked = not met
        record.high_since_raise = False
        crash_point("grant.written")

    def heard_late(self, record: CallRecord, usage_bytes: int) -> None:
        """Word that a line was met, when a look had already moved it above `usage_bytes`: who
        met the old one would sleep on (kernel memory.high: up to 2 s)."""
        line = record.limits.memory_high_bytes
        moved = record.raised_unasked and (line is None or usage_bytes < line)
        record.raised_unasked = False
        if not moved or record.leaf is None or record.frozen_since_ns is not None:
            return
        record.high_since_raise = False
        try:
            enforce.wake(record.leaf)
        except CgroupGoneError:
            return
        except OSError:
            record.owed = True

    def _lower(self, record: CallRecord) -> None:
        """In a worker, which writes the newest wish; a raise meanwhile wins."""
        if record.name in self._lowering or record.leaf is None:
            return
        self._lowering.add(record.name)
        leaf = record.leaf

        def write() -> int | None:
            wish = record.limits.memory_high_bytes
            try:
                enforce.set_grant(leaf, wish)
            except CgroupGoneError:
                _log.debug("the grant of %s: cgroup is gone", record.name)
            except OSError as error:
                record.owed = True
                _log.debug("cannot lower the grant of %s: %s", record.name, error)
            return wish

        def done(future: asyncio.Future[int | None]) -> None:
            self._lowering.discard(record.name)
            if future.cancelled() or record.leaf is None:
                return
            crash_point("grant.written")
            if future.result() != record.limits.memory_high_bytes:
                # A raise came between: who met the lower line meanwhile is woken, too.
                record.owed = True
                self.settle(record)

        self._loop.run_in_executor(self._workers, write).add_done_callback(done)

    def _set_limits(self, action: act.SetLimits) -> None:
        record = self.calls[action.call]
        old, new = record.limits, self._kernel_limits(action.limits)
        if record.leaf is not None:
            enforce.change_limits(record.leaf, old, new)
        record.limits = replace(new, memory_high_bytes=old.memory_high_bytes)
        self._set_grant(
            act.SetGrant(
                action.session, action.call, action.limits.memory_high_bytes, action.because
            )
        )

    def _reclaim(self, action: act.Reclaim) -> None:
        record = self.calls[action.call]
        if record.leaf is not None:
            amount = action.amount_bytes
            self._loop.run_in_executor(self._workers, enforce.reclaim, record.leaf, amount)

    def _freeze(self, action: act.Freeze) -> None:
        record = self.calls[action.call]
        record.frozen_since_ns = self.clock.now_ns()
        record.because = action.because
        if record.leaf is not None:
            record.save()
            record.leaf.freeze(True)

    def _thaw(self, action: act.Thaw) -> None:
        record = self.calls[action.call]
        record.note_thawed(self.clock.now_ns())
        if record.leaf is not None:
            self.open_gate()
            record.leaf.freeze(False)
            record.save()

    def _terminate(self, action: act.Terminate) -> None:
        record = self.calls[action.call]
        record.killed, record.because = Reason.TIMED_OUT, action.because
        if record.leaf is None:
            return
        record.save()
        for pid in record.leaf.procs():
            try:
                fd = pidfd.open_pidfd(pid)
            except OSError:
                continue
            try:
                pidfd.send_signal(fd, _SIGTERM)
            finally:
                os.close(fd)

    def _kill(self, action: act.Kill) -> None:
        record = self.calls.get(action.call)
        if record is None:
            return
        record.killed, record.because = Reason(action.reason), action.because
        if record.leaf is not None:
            # First why, then the deed: we may die in between.
            record.save()
            self.open_gate()
            enforce.kill(record.leaf, record.limits)

    def _kernel_limits(self, limits: Limits) -> Limits:
        grant = self._grant(limits.memory_high_bytes, limits.memory_max_bytes)
        return replace(limits, memory_high_bytes=grant)

    @staticmethod
    def _grant(grant: int | None, cap: int | None) -> int | None:
        """A grant as high as the cap is written as max: the cap then kills at once, where a
        line just below it would throttle for minutes first."""
        if grant is None or (cap is not None and grant >= cap):
            return None
        return grant


def _nothing(record: CallRecord) -> None:
    """No layer but the files follows the grant."""
