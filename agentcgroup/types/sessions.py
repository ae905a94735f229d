# SPDX-License-Identifier: Apache-2.0
"""Sessions (one agent run, owner of a budget) and what may be said about them."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ..errors import InvalidValueError
from .intents import Cores, Priority, Size
from .validation import WireModel

__all__ = ["Containment", "Mode", "SessionKind", "SessionName", "SessionSpec"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}")
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


SessionName = Annotated[str, AfterValidator(_name)]


class SessionKind(StrEnum):
    """Where the agent lives: in the session's cgroup, or on the host, bound by pidfd."""

    INSIDE = "inside"
    OUTSIDE = "outside"


class Mode(StrEnum):
    """observe = decide and log, change nothing."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    OFF = "off"


class Containment(StrEnum):
    ENFORCED = "enforced"
    ADVISORY = "advisory"


class SessionSpec(WireModel):
    """What an operator asks for. Missing: the configuration's default.

    An ephemeral session ends with the agent that it was created with.
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
    labels: dict[str, Annotated[str, Field(max_length=256)]] = {}

    def describe(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)
