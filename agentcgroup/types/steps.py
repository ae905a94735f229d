# SPDX-License-Identifier: Apache-2.0
"""One step of an agent's loop as the agent reports it, and the advice it gets back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .validation import WireModel

__all__ = ["Advice", "StepReport"]


class Advice(StrEnum):
    CONTINUE = "continue"
    ANSWER_NOW = "answer_now"
    STOP = "stop"


class StepReport(WireModel):
    """Token counts are per step; `energy_j` in joules, `cost_usd` in US dollars."""

    session: str | None = None
    step: Annotated[int, Field(ge=0)]
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    logprobs: list[float] | None = None
    logprob_summary: dict[str, float] | None = None
    text: Annotated[str, Field(max_length=262144)] | None = None
    shingles: list[int] | None = None
    tool_calls: list[str] = []
    energy_j: Annotated[float, Field(ge=0)] | None = None
    cost_usd: Annotated[float, Field(ge=0)] | None = None
