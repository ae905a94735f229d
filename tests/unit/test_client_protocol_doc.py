# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md says everything the code does, and nothing it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentcgroup.protocol.errors import _CODES, _SERVER_ERROR, Kind
from agentcgroup.protocol.messages import METHODS, CallInfo, Method, SessionInfo
from agentcgroup.types.intents import Intent
from agentcgroup.types.limits import Limits
from agentcgroup.types.outcomes import Level, Outcome, Reason

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.M | re.S)
    assert match, f"docs/protocol.md has no section {title}"
    return match[2]


def named(text: str) -> set[str]:
    """Everything in `backquotes` outside of examples."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)))


def table_rows(text: str) -> list[list[str]]:
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


def test_methods_are_the_codes() -> None:
    assert re.findall(r"^### `([^`]+)`$", TEXT, re.M) == list(METHODS)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_method_section(method: Method) -> None:
    text = section(f"`{method.name}`")
    assert f"Access: `{method.access.value}`" in text
    assert ("Takes a pidfd" in text) == method.descriptor
    assert set(method.params.model_fields) <= named(text)
    assert set(method.result.model_fields) <= named(text)
    assert re.search(r"^```\n\{.*→", text, re.M | re.S), "an example line"


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_no_parameter_is_invented(method: Method) -> None:
    lines = section(f"`{method.name}`").partition("| parameter | |")[2]
    rows = table_rows(lines.partition("\n\n")[0])
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert told == set(method.params.model_fields)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_errors_of_a_method_are_from_the_list(method: Method) -> None:
    told = re.search(r"Errors: (.*?)\n\n", section(f"`{method.name}`"), re.S)
    kinds = re.findall(r"`([^`]+)`", told[1]) if told else []
    assert set(kinds) - set(Kind) <= {"max_wait_s"}


def test_error_kinds_are_the_codes() -> None:
    rows = [row for row in table_rows(section("Errors")) if row[0].startswith("`")]
    told = {row[0].strip("`"): int(row[1]) for row in rows}
    assert told == {kind.value: _CODES.get(kind, _SERVER_ERROR) for kind in Kind}
    assert all(row[2] and row[3] for row in rows)


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("Intent", set(Intent.model_fields)),
        ("Limits", set(Limits.__slots__)),
        ("Session", set(SessionInfo.model_fields)),
        ("Call", set(CallInfo.model_fields)),
        ("Outcome", set(Outcome.model_fields) | set(Reason) | set(Level)),
    ],
)
def test_records_are_complete(title: str, fields: set[str]) -> None:
    assert fields <= named(section(title))


def test_intent_table_is_exact() -> None:
    rows = [row for row in table_rows(section("Intent")) if row[0].startswith("`")]
    assert [row[0].strip("`") for row in rows] == list(Intent.model_fields)
