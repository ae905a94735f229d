# SPDX-License-Identifier: Apache-2.0
"""OpenAI-compatible requests and answers: what to ask for more, what a step can be told of.

Pure. Answers come whole or as server-sent events; what is missing in them is unknown. Source:
OpenAI API reference, chat completions and completions.
"""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["CHAT", "COMPLETIONS", "asking_for_more", "step_fields"]

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
_MAX_TEXT_CHARS = 262_144


def asking_for_more(path: str, body: bytes) -> bytes | None:
    """The request with log probabilities and usage asked for; None: leave it as it is.

    What the client says about either itself is kept.
    """
    if not path.endswith(COMPLETIONS):
        return None
    try:
        request = json.loads(body)
    except ValueError:
        return None
    if not isinstance(request, dict):
        return None
    more: dict[str, Any] = {}
    if "logprobs" not in request:
        more["logprobs"] = True if path.endswith(CHAT) else 0
    if request.get("stream") is True and "stream_options" not in request:
        more["stream_options"] = {"include_usage": True}
    return json.dumps({**request, **more}).encode() if more else None


def step_fields(content_type: str, body: bytes) -> dict[str, Any] | None:
    """Fields of a step report; None where the answer has no usage to tell of."""
    parts = _events(body) if "event-stream" in content_type else _whole(body)
    found = _Answer()
    for part in parts:
        found.add(part)
    return found.fields()


def _whole(body: bytes) -> list[dict[str, Any]]:
    try:
        answer = json.loads(body)
    except ValueError:
        return []
    return [answer] if isinstance(answer, dict) else []


def _events(body: bytes) -> list[dict[str, Any]]:
    """The data of each event; one that is no JSON object ([DONE]) says nothing."""
    found = []
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            found += _whole(line[5:].strip())
    return found


class _Answer:
    """Gathers the first choice of an answer, whole or in parts."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._logprobs: list[float] = []
        self._tools: dict[int, str] = {}
        self._usage: dict[str, Any] = {}

    def add(self, part: dict[str, Any]) -> None:
        usage = part.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        choices = part.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if isinstance(said, dict):
            for name in ("reasoning_content", "content"):
                if isinstance(said.get(name), str):
                    self._text.append(said[name])
            self._add_tools(said.get("tool_calls"))
        told = choice.get("logprobs")
        if isinstance(told, dict):
            self._add_logprobs(told)

    def _add_tools(self, calls: Any) -> None:
        for place, call in enumerate(calls if isinstance(calls, list) else []):
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if isinstance(name, str) and name:
                index = call.get("index", place)
                self._tools[index if isinstance(index, int) else place] = name

    def _add_logprobs(self, told: dict[str, Any]) -> None:
        tokens = told.get("content")
        values = (
            [token.get("logprob") for token in tokens if isinstance(token, dict)]
            if isinstance(tokens, list)
            else told.get("token_logprobs")
        )
        for value in values if isinstance(values, list) else []:
            if isinstance(value, int | float) and math.isfinite(value):
                self._logprobs.append(min(0.0, float(value)))

    def fields(self) -> dict[str, Any] | None:
        prompt, completion = (
            self._usage.get(name) for name in ("prompt_tokens", "completion_tokens")
        )
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return None
        fields: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "text": "".join(self._text)[:_MAX_TEXT_CHARS],
            "tool_calls": [self._tools[index] for index in sorted(self._tools)],
        }
        if self._logprobs and abs(len(self._logprobs) - completion) <= 1:
            fields["logprobs"] = self._logprobs
        return fields
