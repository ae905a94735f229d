# SPDX-License-Identifier: Apache-2.0
"""Control file shapes: round trips, and no text that makes a parser fall over."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.cgroupfs import parse
from agentcgroup.errors import FormatError

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]) | st.just("_"), min_size=1)
COUNTS = st.integers(0, 1 << 64)
VALUES = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]))


@given(st.none() | COUNTS)
def test_int_or_max_round_trip(value: int | None) -> None:
    text = "max" if value is None else str(value)
    assert parse.int_or_max(f"{text}\n") == value


@pytest.mark.parametrize("text", ["", "max 100000", "1.5", "some avg10=0.00"])
def test_int_or_max_names_the_file(text: str) -> None:
    with pytest.raises(FormatError, match=r"memory\.max"):
        parse.int_or_max(text, "memory.max")


@given(st.dictionaries(NAMES, COUNTS))
def test_flat_keyed_round_trip(counts: dict[str, int]) -> None:
    assert parse.flat_keyed("\n".join(f"{k} {v}" for k, v in counts.items())) == counts


def test_flat_keyed_leaves_out_what_is_no_count() -> None:
    assert parse.flat_keyed("low 0\nhard max\nodd\n\nhigh 7\n") == {"low": 0, "high": 7}


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1)))
def test_nested_keyed_round_trip(table: dict[str, dict[str, str]]) -> None:
    text = "\n".join(
        " ".join([name, *(f"{key}={value}" for key, value in fields.items())])
        for name, fields in table.items()
    )
    assert parse.nested_keyed(text) == table


def test_nested_keyed_of_a_device_without_figures() -> None:
    text = "254:0 \n8:0 rbytes=90112 wbytes=0 rios=22\n"
    assert parse.nested_keyed(text) == {
        "254:0": {},
        "8:0": {"rbytes": "90112", "wbytes": "0", "rios": "22"},
    }


def test_pressure() -> None:
    text = (
        "some avg10=1.50 avg60=0.20 avg300=0.00 total=12345\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    )
    found = parse.pressure(text)
    assert found["some"] == parse.PsiLine(1.5, 0.2, 0.0, 12345)
    assert found["full"].total_us == 7
    assert "full" not in parse.pressure(text.splitlines()[0])
    assert parse.pressure("some avg10=x total=1") == {}


@given(st.text())
def test_no_text_makes_a_parser_fail(text: str) -> None:
    parse.flat_keyed(text)
    parse.nested_keyed(text)
    parse.pressure(text)
    parse.words(text)
    with contextlib.suppress(FormatError):
        parse.int_or_max(text)
