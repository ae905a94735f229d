# SPDX-License-Identifier: Apache-2.0
"""One error for all outside data: the field as the user wrote it, its value, the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from agentcgroup.errors import InvalidValueError
from agentcgroup.protocol.messages import ToolBegin, ToolEnd, ToolUpdate
from agentcgroup.types.intents import Intent
from agentcgroup.types.sessions import SessionSpec
from agentcgroup.types.validation import parse
from agentcgroup.units import parse_cores, parse_duration_s, parse_size_bytes


@pytest.mark.parametrize(
    ("model", "data", "field", "words"),
    [
        (Intent, {"memory": "10K"}, "memory", "at least 1M"),
        (Intent, {"memory": "2G", "memory_max": "1G"}, "memory_max", "at least memory"),
        (Intent, {"memroy": 1}, "memroy", "no such field; known here: background"),
        (ToolBegin, {"key": "k", "intent": {"memory": "10K"}}, "intent.memory", "at least 1M"),
        (ToolBegin, {"key": "k", "intent": {"memory": "2G", "memory_max": "1G"}},
         "intent.memory_max", "at least memory"),
        (ToolBegin, {"key": "k", "intent": {"memory": "2GBs"}}, "intent.memory", "512M"),
        (ToolBegin, {"key": "k", "intent": {"memroy": 1}}, "intent.memroy", "pids_max"),
        (ToolBegin, {"key": "k", "intent": 5}, "intent", "object with named fields"),
        (ToolBegin, {"key": "k", "session": "a/b"}, "session", "1 to 64 letters"),
        (ToolBegin, {}, "key", "required"),
        (ToolUpdate, {"call": "c", "intent": {"memory": "10K"}}, "intent.memory", "at least 1M"),
        (ToolUpdate, {"call": "c", "intent": {"memroy": 1}}, "intent.memroy", "pids_max"),
        (ToolEnd, {"call": "c", "exit_code": 1, "signal": 2}, "signal", "not both"),
        (SessionSpec, {"name": "n" * 300}, "name", "1 to 64 letters"),
        (SessionSpec, {"labels": {"a": 5}}, "labels.a", "must be a valid string"),
        (SessionSpec, [], "params", "object with named fields"),
    ],
)  # fmt: skip
def test_the_field_is_named_by_its_whole_path(
    model: type[BaseModel], data: Any, field: str, words: str
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse(model, data)
    assert caught.value.field == field
    assert words in caught.value.remedy
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "number", ["9" * 5000, "9" * 400 + ".5", "1e999", "nan", "inf", "-1", "", "1 2"]
)
def test_numbers_that_are_none(number: str) -> None:
    for read in (parse_size_bytes, parse_cores, parse_duration_s):
        with pytest.raises(InvalidValueError):
            read(number)  # type: ignore[operator]


def test_integers_beyond_every_bound() -> None:
    for read in (parse_size_bytes, parse_cores, parse_duration_s):
        for number in (10**400, -(10**400), float("nan"), float("inf"), True):
            with pytest.raises(InvalidValueError):
                read(number)  # type: ignore[operator]
