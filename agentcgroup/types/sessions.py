# SPDX-License-Identifier: Apache-2.0
"""Sessions (one agent run, owner of a budget) and what may be said about them."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InvalidValueError
from .intents import Cores, Intent, Priority, Size
from .validation import WireModel

__all__ = [
    "EVERY_PROGRAM", "Boundary", "Containment", "Mode", "ProgramNames", "SessionKind",
    "SessionName", "SessionSpec",
]  # fmt: skip

EVERY_PROGRAM = "*"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}")
_PROGRAM_BYTES = 31
_RESERVED = frozenset({"agent", "tools", "background", "keeper"})


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or value in _RESERVED:
        raise InvalidValueError(
            "name",
            value,
            "use 1 to 64 letters, digits or _ . : @ - beginning with a letter or digit"
            " (agent, tools, background and keeper are taken)",
        )
    return value


def _programs(value: Any) -> Any:
    """A list of base names, or one text with commas (labels and options are texts)."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list):
        return names
    names = [name.strip() if isinstance(name, str) else name for name in names]
    for name in names:
        if not isinstance(name, str) or not _is_program(name):
            raise InvalidValueError(
                "programs", name,
                "name programs by their base names, such as bash,python3, or * for all"
                f" (at most {_PROGRAM_BYTES} bytes each, no slash)",
            )  # fmt: skip
    return names


def _is_program(name: str) -> bool:
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    return plain and 0 < len(name.encode()) <= _PROGRAM_BYTES


SessionName = Annotated[str, AfterValidator(_name)]
ProgramNames = Annotated[
    list[str],
    Field(max_length=256),
    BeforeValidator(_programs, json_schema_input_type=list[str] | str),
]


class SessionKind(StrEnum):
    """Where the agent lives: in the session's cgroup, or on the host, bound by pidfd."""

    INSIDE = "inside"
    OUTSIDE = "outside"


class Mode(StrEnum):
    """observe = decide and log, change nothing."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    OFF = "off"


class Boundary(StrEnum):
    """Where tool calls begin: only where somebody says so, or also at the agent's execs."""

    DECLARED = "declared"
    EXEC = "exec"


class Containment(StrEnum):
    ENFORCED = "enforced"
    ADVISORY = "advisory"


class SessionSpec(WireModel):
    """What an operator asks for. Missing: the configuration's default.

    An ephemeral session ends with the agent that it was created with. `stop_agent`: the
    supervisor may kill the process of an outside agent. `call_defaults`: what counts for a tool
    call that does not say it itself. `boundary_programs`: base names whose exec by a process of
    the agent begins a call where the boundary is `exec` (`*`: any), `boundary_ignore`: never.
    """

    name: SessionName | None = None
    kind: SessionKind = SessionKind.INSIDE
    priority: Priority = Priority.NORMAL
    memory: Size | None = None
    memory_reserve: Size | None = None
    cpu: Cores | None = None
    pids_max: Annotated[int, Field(ge=16, le=4194304)] | None = None
    mode: Mode | None = None
    ephemeral: bool = False
    stop_agent: bool = False
    call_defaults: Intent | None = None
    boundary: Boundary | None = None
    boundary_programs: ProgramNames | None = None
    boundary_ignore: ProgramNames | None = None
    labels: dict[str, Annotated[str, Field(max_length=256)]] = {}

    def describe(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)
