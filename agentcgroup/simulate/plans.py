# SPDX-License-Identifier: Apache-2.0
"""From jobs (what a replay plays) to plans of the host model. Pure. Bytes, ns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..trace.jobs import PROCESS_BYTES, CallJob, SessionJob
from ..trace.model import Sample, SessionTrace
from .process import CallPlan, SessionPlan

__all__ = ["AGENT_RESERVE_BYTES", "session_plan", "session_plans"]

# What the private daemon of a replay keeps for each agent.
AGENT_RESERVE_BYTES = 16 << 20


def session_plans(jobs: Sequence[SessionJob], speed: float) -> list[SessionPlan]:
    return [session_plan(job, speed) for job in jobs]


def session_plan(
    job: SessionJob, speed: float, process_bytes: int = PROCESS_BYTES
) -> SessionPlan:  # fmt: skip
    """At tool granularity the agent is a process of its own and holds the session's base.

    `process_bytes`: what each process holds besides, as a replay's do; 0 for real sessions.
    """
    ordered = sorted(job.calls, key=lambda call: call.begin_s)
    calls = [_call_plan(call, speed, process_bytes) for call in ordered]
    by_tool = job.agent is not None
    return SessionPlan(
        job.name,
        job.priority.value,
        calls,
        AGENT_RESERVE_BYTES,
        None,
        _levels(job.agent or (), speed),
        agent_base_bytes=job.base_bytes + process_bytes if by_tool else 0,
        parallel=by_tool,
        cpu=cpu_levels(job.trace, speed),
        need_bytes=job.need_bytes,
        mean_bytes=job.mean_need_bytes,
        trace_peak_bytes=job.trace.peak_bytes,
    )


def _call_plan(call: CallJob, speed: float, process_bytes: int) -> CallPlan:
    steps = _levels(call.samples, speed) or ((0, 0),)
    end_ns = max(steps[-1][0], int((call.end_s - call.begin_s) / speed * 1e9))
    steps = (*steps, (end_ns, steps[-1][1]))
    begin_ns = int(call.begin_s / speed * 1e9)
    return CallPlan(begin_ns, steps, call.base_bytes + process_bytes, call.intent)


def _levels(samples: Sequence[Sample], speed: float) -> tuple[tuple[int, int], ...]:
    return tuple((int(at_s / speed * 1e9), size) for at_s, size in samples)


def cpu_levels(trace: SessionTrace, speed: float = 1.0) -> tuple[tuple[int, float], ...]:
    """Cores used from each sample to the next one."""
    found = []
    for (at_s, spent_s), (next_s, next_spent_s) in pairwise(trace.cpu_samples):
        if next_s > at_s:
            cores = max(0.0, (next_spent_s - spent_s) / (next_s - at_s))
            found.append((int(at_s / speed * 1e9), cores))
    if trace.cpu_samples:
        found.append((int(trace.cpu_samples[-1][0] / speed * 1e9), 0.0))
    return tuple(found)
