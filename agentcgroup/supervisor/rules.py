# SPDX-License-Identifier: Apache-2.0
"""The predictor that needs no model: caps, and the signs of an agent that is stuck.

Stuck, as OpenHands has it: the same action four times in a row, a step whose every tool call
failed three times in a row, three steps in a row that say the same and call nothing, two
actions in turn, six steps long. An action is a step's text (or shingles) and its tool calls.
Fixed memory. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

from pydantic import Field

from ..types.steps import StepReport
from ..types.validation import WireModel
from .signals import HostSignals

__all__ = ["RuleLimits", "Rules"]

_SAME_ACTION = 4
_SAME_FAILURE = 3
_MONOLOGUE = 3
_ALTERNATION = 6


class RuleLimits(WireModel):
    """Caps of one run, None: no cap. `stuck`: heed the signs of an agent that is stuck."""

    stuck: bool = True
    max_steps: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_energy_j: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Rules:
    """One run. Energy and cost that are not known count for nothing, and are said to."""

    def __init__(self, limits: RuleLimits) -> None:
        self._limits = limits
        self._actions: deque[int | None] = deque(maxlen=_ALTERNATION)
        self._failing = self._silent = 0
        self._steps = self._tokens = 0
        self._cost_usd = self._energy_j = 0.0

    def update(self, report: StepReport, host: HostSignals | None, energy_j: float | None) -> None:
        said = _fingerprint(report)
        same = said is not None and bool(self._actions) and self._actions[-1] == said
        self._silent = (self._silent + 1 if same else 1) if not report.tool_calls else 0
        self._actions.append(said)
        if host is not None and host.calls:
            self._failing = self._failing + 1 if host.failed == host.calls else 0
        self._steps += 1
        self._tokens += report.prompt_tokens + report.completion_tokens
        self._cost_usd += report.cost_usd or 0.0
        self._energy_j += energy_j or 0.0

    def over_cap(self) -> str | None:
        """Which cap is reached, in words."""
        limits = self._limits
        for name, value, cap in (
            ("steps", self._steps, limits.max_steps),
            ("tokens", self._tokens, limits.max_tokens),
            ("US dollars", self._cost_usd, limits.max_cost_usd),
            ("joules", self._energy_j, limits.max_energy_j),
        ):
            if cap is not None and value >= cap:
                return f"{value:g} {name} reach the cap of {cap:g}"
        return None

    def stuck(self) -> str | None:
        """Why the run seems stuck, in words."""
        if not self._limits.stuck:
            return None
        last = list(self._actions)
        if len(last) >= _SAME_ACTION and None not in last and len(set(last[-_SAME_ACTION:])) == 1:
            return f"the last {_SAME_ACTION} steps are the same"
        if self._failing >= _SAME_FAILURE:
            return f"every tool call of the last {self._failing} steps with one failed"
        if self._silent >= _MONOLOGUE:
            return f"{self._silent} steps say the same and call no tool"
        if len(last) == _ALTERNATION and None not in last and last[:2] * 3 == last:
            return f"two actions alternate for {_ALTERNATION} steps"
        return None


def _fingerprint(report: StepReport) -> int | None:
    """Of what the step says and does; None if it tells neither text nor shingles."""
    if report.text is not None:
        return hash((report.text, tuple(report.tool_calls)))
    if report.shingles is not None:
        return hash((tuple(report.shingles), tuple(report.tool_calls)))
    return None
