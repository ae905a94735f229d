# SPDX-License-Identifier: Apache-2.0
"""Labels of containers: each counts, or is told of; none does harm."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.daemon.declared import with_defaults
from agentcgroup.errors import InvalidValueError
from agentcgroup.sandbox.labels import CALL_PREFIX, FIELDS, PREFIX, LabelFilter, spec_from_labels
from agentcgroup.types.intents import Intent
from agentcgroup.types.sessions import SessionSpec
from agentcgroup.types.validation import parse

GOOD = {
    "name": "alice", "kind": "outside", "priority": "high", "memory": "2G",
    "memory_reserve": "128M", "cpu": "1.5", "pids_max": "300", "mode": "observe",
    "boundary": "exec", "boundary_programs": "bash, python3", "boundary_ignore": "node",
}  # fmt: skip


def labels(**said: str) -> dict[str, str]:
    return {f"{PREFIX}{field}": value for field, value in said.items()}


def test_every_field_can_be_said() -> None:
    said, bad = spec_from_labels(labels(**GOOD))
    assert bad == [] and set(said) == set(FIELDS) == set(GOOD)
    spec = parse(SessionSpec, said)
    assert (spec.memory, spec.cpu, spec.pids_max) == (2 << 30, 1.5, 300)
    assert (spec.kind, spec.priority, spec.mode) == ("outside", "high", "observe")
    assert spec.boundary_programs == ["bash", "python3"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"), ("memory", "2 apples"), ("memory", "-1"), ("memory", ""),
        ("cpu", "many"), ("pids_max", "3"), ("pids_max", "1e9"), ("pids_max", "٣٠٠"),
        ("name", "../../etc"), ("name", "tools"), ("kind", "both"), ("mode", "loud"),
        ("colour", "red"), ("labels", "{}"), ("ephemeral", "true"),
    ],
)  # fmt: skip
def test_a_bad_one_is_ignored_and_told(field: str, value: str) -> None:
    said, bad = spec_from_labels(labels(**{**GOOD, field: value}))
    assert field not in said and len(said) == len(set(GOOD) - {field})
    (told,) = bad
    assert told.label == PREFIX + field and told.remedy


def test_what_counts_for_calls_that_say_nothing() -> None:
    said, bad = spec_from_labels({
        f"{CALL_PREFIX}memory": "256M", f"{CALL_PREFIX}timeout_s": "10m",
        f"{CALL_PREFIX}memory_max": "64M", f"{CALL_PREFIX}command": "rm", f"{PREFIX}call": "x",
    })  # fmt: skip
    assert said == {"call_defaults": {"memory": "256M", "timeout_s": "10m"}}
    # Each of the two sizes is one, but not beside the other.
    assert [label.label.removeprefix(PREFIX) for label in bad] == [
        "call", "call.command", "call.memory_max",
    ]  # fmt: skip
    spec = parse(SessionSpec, said)
    assert spec.call_defaults == Intent(memory=256 << 20, timeout_s=600)


@pytest.mark.parametrize(
    ("said", "learned", "counts"),
    [
        ({}, False, {"memory": 256, "memory_max": 512, "timeout_s": 60}),
        ({}, True, {"memory_max": 512, "timeout_s": 60}),
        ({"memory": 300}, False, {"memory": 300, "memory_max": 512, "timeout_s": 60}),
        ({"memory": 900}, False, {"memory": 900, "timeout_s": 60}),
        ({"memory_max": 100, "timeout_s": 5}, False, {"memory_max": 100, "timeout_s": 5}),
    ],
)  # fmt: skip
def test_defaults_of_a_session(said: dict[str, int], learned: bool, counts: dict[str, int]) -> None:
    defaults = Intent(**sizes({"memory": 256, "memory_max": 512, "timeout_s": 60}))
    found = with_defaults(Intent(**sizes(said)), defaults, learned=learned)
    assert found.model_dump(exclude_none=True) == sizes(counts)
    assert with_defaults(found, None, learned=False) == found


def sizes(fields: dict[str, int]) -> dict[str, Any]:
    return {n: v << 20 if n.startswith("memory") else v for n, v in fields.items()}


def test_the_marker_and_foreign_labels_say_nothing() -> None:
    marker = LabelFilter.parse("agentcgroup.adopt=yes")
    found = spec_from_labels({"agentcgroup.adopt": "yes", "org.example": "x"}, marker)
    assert found == ({}, [])


@given(st.dictionaries(st.text(max_size=40).map(lambda t: PREFIX + t) | st.text(), st.text()))
def test_whatever_labels_say_a_session_can_be_made(given_labels: dict[str, str]) -> None:
    said, bad = spec_from_labels(given_labels)
    parse(SessionSpec, said)
    ours = [label for label in given_labels if label.startswith(PREFIX)]
    of_calls = said.pop("call_defaults", {})
    assert len(said) + len(of_calls) + len(bad) == len(ours)
    assert all(str(label).isprintable() and len(label.value) <= 64 for label in bad)


@given(st.sampled_from(FIELDS), st.text(max_size=300))
def test_a_value_counts_exactly_if_the_wire_would_take_it(field: str, value: str) -> None:
    said, bad = spec_from_labels({PREFIX + field: value})
    assert (field in said) is not bool(bad)
    if said:
        parse(SessionSpec, said)


@pytest.mark.parametrize(
    ("text", "found", "matches"),
    [
        ("a", {"a": "1"}, True), ("a", {"a": ""}, True), ("a", {"b": "1"}, False),
        ("a=1", {"a": "1"}, True), ("a=1", {"a": "2"}, False), ("a=", {"a": ""}, True),
        ("a=b=c", {"a": "b=c"}, True),
    ],
)  # fmt: skip
def test_filters(text: str, found: dict[str, str], matches: bool) -> None:
    parsed = LabelFilter.parse(text)
    assert parsed.matches(found) is matches and str(parsed) == text


@pytest.mark.parametrize("text", ["", "=x", " a", " =1"])
def test_a_filter_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        LabelFilter.parse(text, "docker.adopt")
    assert caught.value.field == "docker.adopt"
