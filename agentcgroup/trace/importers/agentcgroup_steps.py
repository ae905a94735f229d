# SPDX-License-Identifier: Apache-2.0
"""Model steps of an AgentCgroup task: usage.jsonl, one line a message.

Anthropic's output_tokens in these runs are what the stream said at its start (1 to 8
mostly), so they are left out: unknown, not small.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from ...units import NS_PER_S
from ..records import Record
from .files import find
from .imported import Changes
from .jsonl import read_objects

__all__ = ["read_steps"]

_STREAM_START_MODELS = "claude-"


def read_steps(path: Path, session: str, begin_epoch_s: float) -> tuple[list[Record], list[str]]:
    """Step records by time from the first sample, and what was left out."""
    source = find(path, "usage.jsonl")
    if source is None:
        return [], ["no usage.jsonl: the model's steps are unknown"]
    changes = Changes()
    steps: list[Record] = []
    for _, entry in read_objects(source, changes):
        at_s = _time(entry.get("ts_last"))
        if at_s is None:
            changes.add("left out a step without a time")
            continue
        t_ns = max(0, round((at_s - begin_epoch_s) * NS_PER_S))
        steps.append(
            {
                "t_ns": t_ns,
                "kind": "step",
                "session": session,
                **_fields(entry, len(steps), changes),
            }
        )
    return steps, changes.lines()


def _fields(entry: dict[str, Any], number: int, changes: Changes) -> Record:
    fields: Record = {"step": number}
    prompt = [
        _count(entry.get(name))
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    if prompt[0] is not None:
        fields["prompt_tokens"] = sum(part or 0 for part in prompt)
    model = entry.get("model")
    output = _count(entry.get("output_tokens"))
    if isinstance(model, str) and model:
        fields["model"] = model
    if isinstance(model, str) and model.startswith(_STREAM_START_MODELS):
        changes.add("left out output tokens that are a stream's first value")
    elif output is not None:
        fields["completion_tokens"] = output
    begun_s, ended_s = _time(entry.get("prev_ts")), _time(entry.get("ts_last"))
    if begun_s is not None and ended_s is not None and ended_s >= begun_s:
        fields["duration_s"] = round(ended_s - begun_s, 6)
    if isinstance(entry.get("sidechain"), bool):
        fields["sidechain"] = entry["sidechain"]
    return fields


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _time(text: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return None if moment.tzinfo is None else moment.timestamp()
