# SPDX-License-Identifier: Apache-2.0
"""What a caller says a tool call will need. Advisory: policy decides what it gets.

Sizes are bytes, cores are CPUs, times are seconds. A missing field means "not said",
never 0.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ..errors import InvalidValueError
from ..units import parse_cores, parse_duration_s, parse_size_bytes
from .validation import WireModel

__all__ = ["Background", "Cores", "Duration", "Intent", "Latency", "OnExceed", "Priority", "Size"]

MIN_MEMORY_BYTES = 1 << 20


def _size(value: Any) -> int:
    return parse_size_bytes(value)


def _cores(value: Any) -> float:
    return parse_cores(value)


def _duration(value: Any) -> float:
    return parse_duration_s(value)


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]
Cores = Annotated[float, BeforeValidator(_cores, json_schema_input_type=float | str)]
Duration = Annotated[float, BeforeValidator(_duration, json_schema_input_type=float | str)]


class Priority(StrEnum):
    """Rank of a session. Order of mildness protects the higher one first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    rank: int

    def __init__(self, word: str) -> None:
        """`rank` 0 is the most important. Asked for at every turn, so worked out once."""
        self.rank = ("high", "normal", "low").index(word)


class Latency(StrEnum):
    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class OnExceed(StrEnum):
    """What happens at the grant when no more can be granted."""

    THROTTLE = "throttle"
    WAIT = "wait"
    KILL = "kill"


class Background(StrEnum):
    """What happens to processes that outlive the command."""

    KILL = "kill"
    KEEP = "keep"


class Intent(WireModel):
    """Resources one tool call expects; every field is optional (DESIGN: intent to kernel)."""

    memory: Size | None = None
    memory_max: Size | None = None
    swap_max: Size | None = None
    cpu: Cores | None = None
    cpu_max: Cores | None = None
    pids_max: Annotated[int, Field(ge=1, le=4194304)] | None = None
    io_weight: Annotated[int, Field(ge=1, le=10000)] | None = None
    latency: Latency | None = None
    duration_s: Duration | None = None
    timeout_s: Duration | None = None
    on_exceed: OnExceed | None = None
    max_wait_s: Duration | None = None
    background: Background | None = None
    command: Annotated[str, Field(max_length=4096)] | None = None
    retry_of: Annotated[str, Field(max_length=64)] | None = None
    label: Annotated[str, Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Intent:
        for name in ("memory", "memory_max"):
            value = getattr(self, name)
            if value is not None and value < MIN_MEMORY_BYTES:
                raise InvalidValueError(name, value, "a process needs at least 1M")
        if self.memory and self.memory_max and self.memory_max < self.memory:
            raise InvalidValueError(
                "memory_max", self.memory_max, f"must be at least memory ({self.memory} bytes)"
            )
        return self
