# SPDX-License-Identifier: Apache-2.0
"""What a container's labels say about its session: `agentcgroup.FIELD=VALUE`, and what counts
for its tool calls that say nothing: `agentcgroup.call.FIELD=VALUE`.

Whoever builds or starts the container writes them. Each is judged by itself, as on the wire:
one that can't be used is left out and told of, the others count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValueError, printable
from ..types.intents import Intent
from ..types.sessions import SessionSpec
from ..types.validation import WireModel, parse

__all__ = [
    "CALL_FIELDS",
    "CALL_PREFIX",
    "FIELDS",
    "PREFIX",
    "BadLabel",
    "LabelFilter",
    "spec_from_labels",
]

PREFIX = "agentcgroup."
CALL_PREFIX = "agentcgroup.call."
FIELDS = (
    "name", "kind", "priority", "memory", "memory_reserve", "cpu", "pids_max", "mode",
    "boundary", "boundary_programs", "boundary_ignore",
)  # fmt: skip
CALL_FIELDS = tuple(
    name for name in Intent.model_fields if name not in ("command", "retry_of", "label")
)


@dataclass(frozen=True, slots=True)
class BadLabel:
    """A label that was ignored; `value` is cut and printable."""

    label: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.label}={self.value}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """`KEY`, or `KEY=VALUE`: which containers are meant."""

    key: str
    value: str | None = None

    @classmethod
    def parse(cls, text: str, field: str = "label") -> LabelFilter:
        key, equals, value = text.partition("=")
        if not key.strip() or key != key.strip():
            raise InvalidValueError(field, text, "write KEY or KEY=VALUE, without blanks")
        return cls(key, value if equals else None)

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        return found is not None and self.value in (None, found)

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


def spec_from_labels(
    labels: Mapping[str, str], marker: LabelFilter | None = None
) -> tuple[dict[str, Any], list[BadLabel]]:
    """Fields of a SessionSpec, and what was ignored. `marker`: the label that asks for adoption."""
    bad: list[BadLabel] = []
    ours = {k: v for k, v in labels.items() if k.startswith(PREFIX)}
    if marker is not None:
        ours.pop(marker.key, None)
    of_calls = {k: ours.pop(k) for k in list(ours) if k.startswith(CALL_PREFIX)}
    said = _usable(SessionSpec, FIELDS, PREFIX, ours, bad)
    call = _usable(Intent, CALL_FIELDS, CALL_PREFIX, of_calls, bad)
    if call:
        said["call_defaults"] = call
    return said, bad


def _usable(
    model: type[WireModel],
    known: Sequence[str],
    prefix: str,
    labels: Mapping[str, str],
    bad: list[BadLabel],
) -> dict[str, Any]:
    """Labels that can be used, one by one and together; the others go to `bad`."""
    said: dict[str, Any] = {}
    for label in sorted(labels):
        field, value = label.removeprefix(prefix), labels[label]
        try:
            if field not in known:
                raise InvalidValueError(field, value, f"known are: {', '.join(known)}")
            parse(model, {**said, field: value})
        except InvalidValueError as error:
            bad.append(BadLabel(_shown(label), _shown(value), error.remedy))
            continue
        said[field] = value
    return said


def _shown(text: str) -> str:
    return printable(text)[1:-1]
