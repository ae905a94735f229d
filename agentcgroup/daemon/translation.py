# SPDX-License-Identifier: Apache-2.0
"""Answers to a caller in a container, in its own terms: pids of its pid namespace, cgroup paths
from its own cgroup on. The daemon's numbers would name other processes there, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from ..cgroupfs import proc
from ..protocol.messages import CallInfo, CallList, CallResult, OutcomeResult, SessionResult
from ..types.outcomes import Outcome
from .identity import Identity
from .records import SessionRecord

__all__ = ["Numbers", "for_caller"]

R = TypeVar("R", bound=BaseModel)


class Numbers:
    """pid of a process in the namespace of another process, 0 where it can't be seen."""

    def __init__(self, caller: int, ids: Callable[[int], list[int]] | None = None) -> None:
        """`ids`: NSpid of /proc/PID/status, outermost first, empty for one that is gone."""
        self._ids = ids or _ids
        self._depth = len(self._ids(caller))

    def of(self, pid: int) -> int:
        """A session has one container: whose namespaces go as deep is in the same one."""
        ids = self._ids(pid)
        return ids[self._depth - 1] if self._depth and len(ids) >= self._depth else 0


def for_caller(
    result: BaseModel, caller: Identity, sessions: Mapping[str, SessionRecord]
) -> BaseModel:
    """`result` as it is, for a caller in the daemon's own namespaces."""
    if caller.session is None or not isinstance(
        result, SessionResult | CallResult | CallList | OutcomeResult
    ):
        return result
    if proc.namespace_id(caller.pid, "pid") != proc.namespace_id("self", "pid"):
        result = _numbered(result, Numbers(caller.pid))
    own_root = proc.namespace_id(caller.pid, "cgroup") != proc.namespace_id("self", "cgroup")
    record = sessions.get(caller.session)
    if own_root and isinstance(result, SessionResult) and record and record.in_place:
        return _with(result, session=_with(result.session, cgroup="/"))
    return result


def _numbered(result: BaseModel, numbers: Numbers) -> BaseModel:
    if isinstance(result, SessionResult):
        info = result.session
        return _with(
            result,
            session=_with(
                info, agent_pids=_all(numbers, info.agent_pids),
                background_pids=_all(numbers, info.background_pids),
            ),
        )  # fmt: skip
    if isinstance(result, CallResult):
        return _with(result, call=_call(result.call, numbers))
    if isinstance(result, CallList):
        return _with(result, calls=[_call(call, numbers) for call in result.calls])
    if isinstance(result, OutcomeResult):
        return _with(result, outcome=_outcome(result.outcome, numbers))
    return result


def _call(call: CallInfo, numbers: Numbers) -> CallInfo:
    outcome = _outcome(call.outcome, numbers) if call.outcome is not None else None
    return _with(call, pids=_all(numbers, call.pids), outcome=outcome)


def _outcome(outcome: Outcome, numbers: Numbers) -> Outcome:
    biggest = outcome.biggest_process
    if biggest is not None:
        biggest = _with(biggest, pid=numbers.of(biggest.pid))
    pids = _all(numbers, outcome.background_pids)
    return _with(outcome, background_pids=pids, biggest_process=biggest)


def _all(numbers: Numbers, pids: list[int]) -> list[int]:
    return [numbers.of(pid) for pid in pids]


def _with(model: R, **fields: Any) -> R:
    return model.model_copy(update=fields)


def _ids(pid: int) -> list[int]:
    for line in proc.lines(f"/proc/{pid}/status") if pid > 0 else []:
        name, _, words = line.partition(":")
        if name == "NSpid":
            return [int(word) for word in words.split()]
    return []
