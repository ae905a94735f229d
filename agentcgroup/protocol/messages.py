# SPDX-License-Identifier: Apache-2.0
"""Parameters and results of every method, and the one table method → access → types.

Described for people in docs/protocol.md. Results may gain fields; parameters are
refused when unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import InvalidValueError
from ..types.intents import Cores, Duration, Intent, Priority, Size
from ..types.outcomes import Outcome
from ..types.sessions import Boundary, Mode, ProgramNames, SessionName, SessionSpec
from ..types.steps import StepReport
from ..types.validation import WireModel

__all__ = ["METHODS", "Access", "Method"]

CallId = Annotated[str, Field(min_length=1, max_length=64)]
Key = Annotated[str, Field(min_length=1, max_length=128)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Access(StrEnum):
    """Least right a method needs. leaf < agent < admin; anyone = also a stranger."""

    ANYONE = "anyone"
    LEAF = "leaf"
    AGENT = "agent"
    ADMIN = "admin"


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class NoParams(WireModel):
    pass


class VersionResult(_Result):
    version: str
    protocol: int


class SessionRef(WireModel):
    session: Name


class SessionRefOrOwn(WireModel):
    session: Name | None = None


class SessionAdopt(SessionSpec):
    """A process: with a pidfd, or `pid` in the daemon's pid namespace. In place: a container
    (name or id), or a cgroup (path below the mount); the process is then its agent."""

    pid: Annotated[int, Field(ge=1)] | None = None
    container: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    cgroup: Annotated[str, Field(min_length=2, max_length=4096, pattern="^/")] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> SessionAdopt:
        if self.container is not None and self.cgroup is not None:
            raise InvalidValueError("cgroup", self.cgroup, "name a container or a cgroup, not both")
        return self


class SessionUpdate(WireModel):
    session: Name
    priority: Priority | None = None
    memory: Size | None = None
    memory_reserve: Size | None = None
    cpu: Cores | None = None
    pids_max: Annotated[int, Field(ge=16, le=4194304)] | None = None
    mode: Mode | None = None
    boundary: Boundary | None = None
    boundary_programs: ProgramNames | None = None
    boundary_ignore: ProgramNames | None = None


class SessionInfo(_Result):
    """`memory_bytes` is the budget; `granted_bytes` the sum of the grants in it.

    `cpu_s`, `throttled_ms` and `pressure_avg10_pct` are in `host.status` and `session.get`.
    """

    name: str
    kind: str
    priority: str
    mode: str
    boundary: str = "declared"
    containment: str
    containment_reason: str
    cgroup: str
    container: str | None = None
    paused: bool = False
    ephemeral: bool = False
    memory_bytes: int | None = None
    memory_reserve_bytes: int | None = None
    memory_current_bytes: int | None = None
    granted_bytes: int = 0
    cpu_s: float | None = None
    throttled_ms: float | None = None
    pressure_avg10_pct: float | None = None
    cpu: float | None = None
    pids_max: int | None = None
    agent_pids: list[int] = []
    background_pids: list[int] = []
    calls: list[str] = []
    queued: int = 0
    created_epoch_s: float = 0.0
    labels: dict[str, str] = {}
    steps: int = 0
    energy_j: float | None = None


class SessionResult(_Result):
    session: SessionInfo


class SessionList(_Result):
    sessions: list[SessionInfo]


class BudgetResult(_Result):
    session: str
    memory_bytes: int | None
    memory_free_bytes: int | None
    granted_bytes: int
    memory_current_bytes: int | None
    cpu: float | None
    calls: int
    queued: int


class EndResult(_Result):
    session: str
    outcomes: list[Outcome] = []


class IntentDeclare(WireModel):
    intent: Intent
    match: Annotated[str, Field(max_length=256)] | None = None
    ttl_s: Duration = 60.0
    session: Name | None = None


class IntentResult(_Result):
    intent_id: str


class ToolBegin(WireModel):
    """Carries the waiting child's pidfd; with `shell`, that of a persistent shell, whose commands
    are placed and which itself is not."""

    key: Key
    intent: Intent = Intent()
    intent_id: Key | None = None
    shell: bool = False
    session: SessionName | None = None


class BeginResult(_Result):
    call: str
    session: str
    limits: dict[str, int | float | bool | None]
    waited_ms: float = 0.0
    layers: list[str] = []
    nested: bool = False
    mode: str = "enforce"
    intent_source: str = "declared"


class ToolUpdate(WireModel):
    """New wishes for a running call, or (with a pidfd) one more waiting child to place."""

    call: CallId
    intent: Intent | None = None


class UpdateResult(_Result):
    call: str
    limits: dict[str, int | float | bool | None]


class ToolRef(WireModel):
    call: CallId | None = None


class ToolEnd(WireModel):
    call: CallId
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _one_status(self) -> ToolEnd:
        if self.exit_code is not None and self.signal is not None:
            raise InvalidValueError("signal", self.signal, "send exit_code or signal, not both")
        return self


class ToolResume(WireModel):
    """After a reconnect: rebind to the call begun with `key`; a status ends it."""

    key: Key
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    signal: Annotated[int, Field(ge=1, le=64)] | None = None


class CallInfo(_Result):
    """`state`: queued, running, frozen, ended.

    `cpu_s`, `throttled_ms`, `pressure_avg10_pct` and, while our scheduler runs, `gated_ms`,
    `gated_count` and `cpu_throttled_ms` are in `tool.get`, and in `tool.list` for who asks for
    `figures`. `because` says why it waits or stands still.
    """

    call: str
    session: str
    state: str
    command: str | None = None
    label: str | None = None
    limits: dict[str, int | float | bool | None] = {}
    layers: list[str] = []
    grant_bytes: int | None = None
    cap_bytes: int | None = None
    memory_current_bytes: int | None = None
    pids: list[int] = []
    age_s: float | None = None
    waited_ms: float | None = None
    frozen_ms: float | None = None
    cpu_s: float | None = None
    throttled_ms: float | None = None
    pressure_avg10_pct: float | None = None
    gated_ms: float | None = None
    gated_count: int | None = None
    cpu_throttled_ms: float | None = None
    because: str | None = None
    outcome: Outcome | None = None


class CallResult(_Result):
    call: CallInfo


class ToolList(WireModel):
    session: Name | None = None
    ended: bool = True
    figures: bool = False
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class CallList(_Result):
    calls: list[CallInfo]


class OutcomeResult(_Result):
    outcome: Outcome


class AdviceResult(_Result):
    advice: str
    score: float | None = None
    threshold: float | None = None
    reason: str = ""
    predictor: str = ""


class Subscribe(WireModel):
    session: Name | None = None
    kinds: list[Annotated[str, Field(max_length=32)]] = []


class AnyResult(_Result):
    """A report whose keys are documented in docs/protocol.md."""

    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    access: Access
    params: type[WireModel]
    result: type[BaseModel]
    descriptor: bool = False


_A = Access
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("host.version", _A.ANYONE, NoParams, VersionResult),
        Method("host.status", _A.ADMIN, NoParams, AnyResult),
        Method("host.probe", _A.ADMIN, NoParams, AnyResult),
        Method("session.create", _A.ADMIN, SessionSpec, SessionResult, descriptor=True),
        Method("session.adopt", _A.ADMIN, SessionAdopt, SessionResult, descriptor=True),
        Method("session.detach", _A.ADMIN, SessionRef, SessionResult),
        Method("session.get", _A.AGENT, SessionRefOrOwn, SessionResult),
        Method("session.list", _A.ADMIN, NoParams, SessionList),
        Method("session.update", _A.ADMIN, SessionUpdate, SessionResult),
        Method("session.budget", _A.LEAF, SessionRefOrOwn, BudgetResult),
        Method("session.end", _A.ADMIN, SessionRef, EndResult),
        Method("intent.declare", _A.AGENT, IntentDeclare, IntentResult),
        Method("tool.begin", _A.LEAF, ToolBegin, BeginResult, descriptor=True),
        Method("tool.update", _A.AGENT, ToolUpdate, UpdateResult, descriptor=True),
        Method("tool.get", _A.LEAF, ToolRef, CallResult),
        Method("tool.list", _A.AGENT, ToolList, CallList),
        Method("tool.end", _A.LEAF, ToolEnd, OutcomeResult),
        Method("tool.resume", _A.AGENT, ToolResume, CallResult),
        Method("step.report", _A.AGENT, StepReport, AdviceResult),
        Method("events.subscribe", _A.AGENT, Subscribe, AnyResult),
    )
}


def json_schema() -> dict[str, Any]:
    """JSON schema of every method's parameters and result, and of the error kinds."""
    from .errors import Kind  # noqa: PLC0415  (errors must not import messages)

    return {
        "protocol": PROTOCOL_VERSION,
        "methods": {
            name: {
                "access": method.access.value,
                "descriptor": method.descriptor,
                "params": method.params.model_json_schema(mode="validation"),
                "result": method.result.model_json_schema(mode="serialization"),
            }
            for name, method in METHODS.items()
        },
        "error_kinds": [kind.value for kind in Kind],
    }


PROTOCOL_VERSION = 1
