# SPDX-License-Identifier: Apache-2.0
"""One step of an agent's loop as the agent reports it, and the advice it gets back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .validation import WireModel

__all__ = ["Advice", "StepReport"]


Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class Advice(StrEnum):
    CONTINUE = "continue"
    ANSWER_NOW = "answer_now"
    STOP = "stop"


class StepReport(WireModel):
    """Token counts are per step; `energy_j` in joules, `cost_usd` in US dollars.

    `thought_tokens`: those before the first code or tool call. `logprobs`: natural logarithms.
    """

    session: str | None = None
    step: Count
    prompt_tokens: Count
    completion_tokens: Count
    thought_tokens: Count | None = None
    logprobs: list[float] | None = None
    logprob_summary: dict[str, float] | None = None
    text: Annotated[str, Field(max_length=262144)] | None = None
    shingles: list[int] | None = None
    tool_calls: list[str] = []
    energy_j: Amount | None = None
    cost_usd: Amount | None = None
