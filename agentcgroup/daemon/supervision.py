# SPDX-License-Identifier: Apache-2.0
"""Steps that agents report, judged; what the daemon saw itself goes into it.

off: recorded, no more. observe: judged and logged, the agent hears `continue`. advise: the
agent hears the advice. enforce: a stop also ends the session after a grace. A session that
does not enforce its limits, or is protected, is never ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..cgroupfs import pidfd
from ..errors import ConfigError, FormatError
from ..log import get_logger
from ..protocol.messages import AdviceResult
from ..supervisor.online import Judgement, RunWatch
from ..supervisor.predictor import Predictor, load
from ..supervisor.signals import HostSignals
from ..types.outcomes import Outcome, Reason
from ..types.sessions import Mode, SessionKind
from ..types.steps import Advice, StepReport
from .config import SupervisionMode, SupervisorConfig
from .core import Core
from .energy import DeclaredCost, EnergyMeter, Reading
from .figures import live_figures
from .records import CallRecord, SessionRecord

__all__ = ["Supervision", "load_predictor"]

_log = get_logger(__name__)
_REMEMBERED_COMMANDS = 16
_SIGKILL = 9


@dataclass(slots=True)
class _Watched:
    """One session's run so far; the counters are since its last step."""

    record: SessionRecord
    watch: RunWatch
    before: Reading | None = None
    calls: int = 0
    failed: int = 0
    oom_killed: int = 0
    timed_out: int = 0
    repeated: int = 0
    cpu_s: float | None = None
    peak_share: float | None = None
    last_call_ns: int | None = None
    commands: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_COMMANDS))
    ending: asyncio.Task[None] | None = None


class Supervision:
    """`end_session(record)` kills and removes; it is asked for in mode enforce alone."""

    def __init__(self, core: Core, config: SupervisorConfig, predictor: Predictor | None) -> None:
        self._core = core
        self._config = config
        self._predictor = predictor
        self._watched: dict[str, _Watched] = {}
        self._endings: set[asyncio.Task[None]] = set()
        declared = DeclaredCost(config.energy_j_per_token, config.energy_j_per_s)
        self._meter = EnergyMeter(declared, os.sysconf("SC_CLK_TCK"))
        self.end_session: Callable[[SessionRecord], Awaitable[Any]] | None = None
        core.on_call_ended = self._call_ended

    def status(self) -> dict[str, Any]:
        """For host.status: mode, predictor and what it promises."""
        told: dict[str, Any] = {"mode": self._config.mode.value, "predictor": "rules"}
        if self._predictor is not None:
            note = self._predictor.calibration
            told |= {
                "predictor": self._predictor.name or self._predictor.features.set,
                "population": self._predictor.population,
                "bound": note.bound.value,
                "max_drop": note.max_drop,
                "certified": note.certified,
            }
        return told

    def step(self, record: SessionRecord, report: StepReport) -> AdviceResult:
        """InvalidValueError for a report of no use; the session is as before then."""
        if self._config.mode is SupervisionMode.OFF:
            self._note(record, report, None, None, "unknown")
            return AdviceResult(advice=Advice.CONTINUE, reason="supervision is off")
        watched = self._watch_of(record)
        now_ns = self._core.clock.now_ns()
        told = report.model_copy(update={"session": None})
        if watched.watch.is_repeat(told):
            return self._answer(record, watched.watch.report(told))
        reading = self._meter.read(now_ns, live_figures(record.cgroup)["cpu_s"])
        energy_j, source = self._meter.step(report, watched.before, reading)
        judgement = watched.watch.report(told, _signals(watched, now_ns), energy_j)
        _begin_next_step(watched, reading)
        _add(record, energy_j)
        self._note(record, report, judgement, energy_j, source)
        if judgement.advice is not Advice.CONTINUE:
            self._act(record, watched, judgement)
        return self._answer(record, judgement)

    def _watch_of(self, record: SessionRecord) -> _Watched:
        known = self._watched.get(record.name)
        if known is None or known.record is not record:
            live = self._core.sessions
            self._watched = {
                name: old for name, old in self._watched.items() if live.get(name) is old.record
            }
            watch = RunWatch(
                self._predictor, self._config.limits, answer_first=self._config.answer_first
            )
            known = self._watched[record.name] = _Watched(record, watch)
        return known

    def _mode_for(self, record: SessionRecord) -> SupervisionMode:
        mode = self._config.mode
        protected = any(fnmatchcase(record.name, name) for name in self._config.protect)
        if mode is SupervisionMode.ENFORCE and (protected or record.mode is not Mode.ENFORCE):
            return SupervisionMode.ADVISE
        return mode

    def _answer(self, record: SessionRecord, judgement: Judgement) -> AdviceResult:
        advice, reason = judgement.advice, judgement.reason
        if self._mode_for(record) is SupervisionMode.OBSERVE and advice is not Advice.CONTINUE:
            advice, reason = Advice.CONTINUE, f"only observed, else {advice.value}: {reason}"
        return AdviceResult(
            advice=advice, score=judgement.score, threshold=judgement.threshold, reason=reason,
            predictor=judgement.predictor,
        )  # fmt: skip

    # --- what a stop does

    def _act(self, record: SessionRecord, watched: _Watched, judgement: Judgement) -> None:
        mode = self._mode_for(record)
        self._decided(record, "advise", judgement, applied=mode is not SupervisionMode.OBSERVE)
        stops = judgement.advice is Advice.STOP and mode is SupervisionMode.ENFORCE
        if stops and watched.ending is None:
            watched.ending = asyncio.get_running_loop().create_task(
                self._end_after_grace(record, judgement)
            )
            # Held here, too: the session is forgotten before its end is done.
            self._endings.add(watched.ending)
            watched.ending.add_done_callback(self._endings.discard)

    async def _end_after_grace(self, record: SessionRecord, judgement: Judgement) -> None:
        await asyncio.sleep(self._config.stop_grace_s)
        if self._core.sessions.get(record.name) is not record or self.end_session is None:
            return
        self._decided(record, "end_session", judgement, applied=True)
        _log.info("session %s is ended by the supervisor: %s", record.name, judgement.reason)
        if record.kind is SessionKind.OUTSIDE and record.spec.stop_agent:
            _kill_agent(record)
        await self.end_session(record)

    def _decided(
        self, record: SessionRecord, action: str, judgement: Judgement, *, applied: bool
    ) -> None:
        body: dict[str, Any] = {
            "action": action, "advice": judgement.advice.value, "why": judgement.reason,
            "score": judgement.score, "threshold": judgement.threshold,
            "predictor": judgement.predictor,
        }  # fmt: skip
        if not applied:
            body["observed_only"] = True
        self._core.decisions.record(
            self._core.clock.now_ns(), "decision", record.name, None, body
        )  # fmt: skip

    def _note(
        self,
        record: SessionRecord,
        report: StepReport,
        judgement: Judgement | None,
        energy_j: float | None,
        source: str,
    ) -> None:
        if not self._core.decisions.wanted:
            return
        body = report.model_dump(
            mode="json",
            exclude_none=True,
            exclude_unset=True,
            exclude={"session", "text", "energy_j"},
        )
        if energy_j is not None:
            body |= {"energy_j": energy_j, "energy_source": source}
        if judgement is not None:
            body |= {"score": judgement.score, "advice": judgement.advice.value}
        self._core.decisions.record(self._core.clock.now_ns(), "step", record.name, None, body)

    # --- what the daemon saw

    def _call_ended(self, call: CallRecord, outcome: Outcome) -> None:
        record = self._core.sessions.get(call.session)
        if record is None or self._config.mode is SupervisionMode.OFF:
            return
        watched = self._watch_of(record)
        watched.calls += 1
        watched.failed += not outcome.ok
        watched.oom_killed += outcome.reason is Reason.OOM_KILLED
        watched.timed_out += outcome.reason is Reason.TIMED_OUT
        if outcome.command:
            mark = zlib.crc32(outcome.command.encode())
            watched.repeated += mark in watched.commands
            watched.commands.append(mark)
        if outcome.cpu_s is not None:
            watched.cpu_s = (watched.cpu_s or 0.0) + outcome.cpu_s
        budget = record.spec.memory
        if budget and outcome.peak_memory_bytes is not None:
            share = outcome.peak_memory_bytes / budget
            watched.peak_share = max(watched.peak_share or 0.0, share)
        watched.last_call_ns = self._core.clock.now_ns()


def load_predictor(config: SupervisorConfig) -> Predictor | None:
    """The configured model; ConfigError (78) if it can't be read or may not do what is asked."""
    if not config.model:
        return None
    try:
        predictor = load(config.model)
    except FormatError as error:
        raise ConfigError("supervisor.model", config.model, str(error)) from None
    if config.mode is SupervisionMode.ENFORCE:
        if predictor.observe_only:
            raise ConfigError(
                "supervisor.mode", config.mode.value,
                f"the model {predictor.name!r} is for observe only: train one on your own runs",
            )  # fmt: skip
        if not predictor.calibration.certified:
            raise ConfigError(
                "supervisor.mode", config.mode.value,
                f"the model's threshold is not certified: {predictor.calibration.reason}",
            )  # fmt: skip
    return predictor


def _signals(watched: _Watched, now_ns: int) -> HostSignals | None:
    """None for a session whose tool calls the daemon has not seen yet: unknown, not zero."""
    if watched.last_call_ns is None:
        return None
    return HostSignals(
        calls=watched.calls,
        failed=watched.failed,
        oom_killed=watched.oom_killed,
        timed_out=watched.timed_out,
        repeated=watched.repeated,
        cpu_s=watched.cpu_s,
        peak_share=watched.peak_share,
        silent_s=(now_ns - watched.last_call_ns) / 1e9,
    )


def _begin_next_step(watched: _Watched, reading: Reading) -> None:
    watched.before = reading
    watched.calls = watched.failed = watched.oom_killed = 0
    watched.timed_out = watched.repeated = 0
    watched.cpu_s = watched.peak_share = None


def _add(record: SessionRecord, energy_j: float | None) -> None:
    """One step of unknown energy makes the session's unknown, never too small."""
    known = record.energy_j if record.steps else 0.0
    record.steps += 1
    record.energy_j = None if known is None or energy_j is None else known + energy_j


def _kill_agent(record: SessionRecord) -> None:
    fd = record.bound_agent.open() if record.bound_agent is not None else None
    if fd is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            pidfd.send_signal(fd, _SIGKILL)
    finally:
        os.close(fd)
