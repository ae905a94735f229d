# SPDX-License-Identifier: Apache-2.0
"""Tokens: by trace record, as the paper counts, and by message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .runs import Message, Run

__all__ = ["token_correlations", "token_figures"]

_FEWEST_TASKS = 5


def _turns(messages: Sequence[Message], by_record: bool) -> int:
    return sum(m.records for m in messages) if by_record else len(messages)


def _output(messages: Sequence[Message], by_record: bool) -> int:
    return sum(m.output_record_sum if by_record else m.output_tokens for m in messages)


def token_figures(runs: Sequence[Run], *, by_record: bool) -> dict[str, Any]:
    """Turns a task, context and output a turn, share of the context that came from the cache.

    `by_record`: every trace record is a turn and repeats its message's usage. Of output
    tokens by message only messages count whose total is known.
    """
    with_messages = [run.messages for run in runs if run.messages]
    if not with_messages:
        return {}
    turns = [_turns(messages, by_record) for messages in with_messages]
    every = [message for messages in with_messages for message in messages]
    weights = [message.records if by_record else 1 for message in every]
    contexts = np.repeat([m.context_tokens for m in every], weights)
    cached = np.repeat([m.cache_read_tokens / max(m.context_tokens, 1) for m in every], weights)
    outputs = _outputs(every, by_record)
    totals = [_output(messages, by_record) for messages in with_messages]
    known = by_record or all(m.output_is_whole for m in every)
    return {
        "n_tasks": len(with_messages),
        "avg_turns": float(np.mean(turns)),
        "median_turns": float(np.median(turns)),
        "min_turns": min(turns),
        "max_turns": max(turns),
        "avg_context_per_turn": float(contexts.mean()),
        "median_context_per_turn": float(np.median(contexts)),
        "max_context_per_turn": int(contexts.max()),
        "avg_output_per_turn": float(np.mean(outputs)) if len(outputs) else None,
        "median_output_per_turn": float(np.median(outputs)) if len(outputs) else None,
        "avg_total_output": float(np.mean(totals)) if known else None,
        "avg_cache_hit_rate": float(cached.mean()),
    }


def _outputs(messages: Sequence[Message], by_record: bool) -> list[float]:
    """Output tokens a turn. A message's records repeat one figure; where they add up to
    less than that, the earlier ones held what is left, divided evenly."""
    if not by_record:
        return [m.output_tokens for m in messages if m.output_is_whole]
    found: list[float] = []
    for message in messages:
        earlier = message.records - 1
        if message.output_record_sum == message.records * message.output_tokens or not earlier:
            found += [message.output_tokens] * message.records
        else:
            rest = (message.output_record_sum - message.output_tokens) / earlier
            found += [rest] * earlier + [message.output_tokens]
    return found


def token_correlations(runs: Sequence[Run], *, by_record: bool) -> tuple[dict[str, float], int]:
    """Pearson's r over tasks, and how many they are; empty below five tasks."""
    rows = [
        (
            _output(run.messages, by_record), _turns(run.messages, by_record),
            run.summary.peak_mb, run.summary.mean_mb, run.summary.cpu_mean_pct, run.times.claude_s,
        )
        for run in runs
        if run.messages and run.summary is not None and run.times is not None
    ]  # fmt: skip
    if len(rows) < _FEWEST_TASKS:
        return {}, len(rows)
    output, turns, peak, mean, cpu, seconds = np.array(rows, dtype=float).T
    pairs = {
        "output_tokens_vs_peak_mem": (output, peak),
        "output_tokens_vs_avg_mem": (output, mean),
        "output_tokens_vs_avg_cpu": (output, cpu),
        "output_tokens_vs_exec_time": (output, seconds),
        "n_turns_vs_peak_mem": (turns, peak),
        "n_turns_vs_exec_time": (turns, seconds),
    }
    return {name: float(np.corrcoef(a, b)[0, 1]) for name, (a, b) in pairs.items()}, len(rows)
