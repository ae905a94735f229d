# SPDX-License-Identifier: Apache-2.0
"""Intent and session -> kernel limits (DESIGN: intent to kernel). Pure arithmetic."""

from __future__ import annotations

from ..types.intents import Intent, Latency, OnExceed, Priority
from ..types.limits import Limits
from .state import CallState, PolicyConfig, SessionState

__all__ = ["cap_bytes", "first_grant_bytes", "limits_for", "tools_budget_bytes"]

_WEIGHT_OF_RANK = (400, 100, 25)
_LATENCY_FACTOR = {Latency.INTERACTIVE: 2.0, Latency.STANDARD: 1.0, Latency.BATCH: 0.5}


def tools_budget_bytes(session: SessionState, host_budget_bytes: int) -> int:
    """memory.max of the session's tools/: its budget less what is kept for the agent."""
    budget = host_budget_bytes
    if session.budget_bytes is not None:
        budget = min(budget, session.budget_bytes)
    return max(0, budget - session.overhead_bytes)


def cap_bytes(intent: Intent, tools_bytes: int) -> int:
    """memory.max of a call. on_exceed=kill means: the kernel kills at the expected peak."""
    cap = tools_bytes
    if intent.memory_max is not None:
        cap = min(cap, intent.memory_max)
    if intent.on_exceed is OnExceed.KILL and intent.memory is not None:
        cap = min(cap, intent.memory)
    return cap


def first_grant_bytes(call: CallState, config: PolicyConfig) -> int:
    """What the call asks for at its begin; never above its cap."""
    expected = call.expected_bytes
    return min(call.cap_bytes, config.default_grant_bytes if expected is None else expected)


def limits_for(
    intent: Intent, session: SessionState, grant_bytes: int, cap: int, config: PolicyConfig
) -> Limits:
    return Limits(
        memory_high_bytes=grant_bytes,
        memory_max_bytes=cap,
        swap_max_bytes=intent.swap_max or 0,
        pids_max=intent.pids_max or config.default_pids_max,
        cpu_weight=_cpu_weight(intent, session.priority),
        cpu_max_cores=intent.cpu_max,
        io_weight=intent.io_weight or 100,
    )


def _cpu_weight(intent: Intent, priority: Priority) -> int:
    weight = float(_WEIGHT_OF_RANK[priority.rank])
    if intent.latency is not None:
        weight *= _LATENCY_FACTOR[intent.latency]
    return max(1, min(10000, round(weight * (intent.cpu or 1.0))))
