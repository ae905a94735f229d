# SPDX-License-Identifier: Apache-2.0
"""Learned defaults: which commands are the same, what is expected, and what it changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.policy.engine import new_state, step
from agentcgroup.policy.learning import Learned, fingerprint
from agentcgroup.policy.state import PolicyState
from agentcgroup.types import actions as act
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import GIB, MIB


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -m pytest -x tests", "python -m pytest"),
        ("FOO=1 /usr/bin/python3.12 -m pytest", "python -m pytest"),
        ("python3 setup.py build", "python setup.py"),
        ("python -c 'print(1)'", "python -c"),
        ("/opt/x/bin/pytest tests/a.py::t", "pytest"),
        ("git -C /src status --short", "git /src"),
        ("git status", "git status"),
        ("sudo -E timeout 60 make -j4 all", "make all"),
        ("bash -lc 'cd /src && pip install -r r.txt'", "pip install"),
        ("gcc-12 -O2 a.c", "gcc"),
        ("bash run.sh", "bash run.sh"),
        ("echo 'open", "echo"),
        ("", None),
        ("   ", None),
        ("sudo", None),
        (None, None),
    ],
)
def test_commands_that_are_the_same(command: str | None, name: str | None) -> None:
    assert fingerprint(command) == name


@given(st.text(max_size=200))
def test_any_text_has_a_short_name_or_none(command: str) -> None:
    name = fingerprint(command)
    assert name is None or 0 < len(name) <= 96
    assert fingerprint(command) == name


def test_nothing_is_expected_before_the_third_time() -> None:
    learned = Learned()
    for _ in range(2):
        learned.note("pytest a", 100 * MIB)
        assert learned.expected_bytes("pytest b") is None
    learned.note("pytest c", 100 * MIB)
    assert learned.expected_bytes("pytest d") == 112 * MIB
    assert learned.expected_bytes("ruff") is None


def test_one_high_peak_counts_and_fades() -> None:
    learned = Learned()
    for peak in (100, 100, 900, 100):
        learned.note("pytest", peak * MIB)
    assert (learned.expected_bytes("pytest") or 0) > 900 * MIB
    for _ in range(16):
        learned.note("pytest", 100 * MIB)
    assert learned.expected_bytes("pytest") == 112 * MIB


def test_an_oom_kill_means_that_more_was_wanted() -> None:
    learned = Learned()
    for _ in range(3):
        learned.note("pytest", 100 * MIB, oom_killed=True)
    assert learned.expected_bytes("pytest") == 168 * MIB


@given(st.lists(st.integers(1, 1 << 40), min_size=3, max_size=40))
def test_the_expectation_lies_within_what_was_seen(peaks: list[int]) -> None:
    learned = Learned()
    for peak in peaks:
        learned.note("x", peak)
    newest = peaks[-16:]
    expected = learned.expected_bytes("x")
    assert expected is not None
    assert min(newest) <= expected <= max(newest) + max(newest) * 12 // 100


def test_old_commands_make_room() -> None:
    learned = Learned()
    for number in range(5000):
        learned.note(f"tool{number}x", MIB)
    assert len(learned.peaks) == 4096
    assert "tool4999x" in learned.peaks and "tool0x" not in learned.peaks


def begun(state: PolicyState, call: str, intent: Intent) -> act.Place:
    _, actions = step(state, i.CallBegin(0, "b", call, intent))
    (placed,) = (action for action in actions if isinstance(action, act.Place))
    return placed


def test_a_learned_peak_is_the_first_grant_and_is_told() -> None:
    state = new_state(4 * GIB)
    for session, priority in (("a", Priority.HIGH), ("b", Priority.NORMAL)):
        step(state, i.SessionBegin(0, session, priority, None, 0))
    step(state, i.CallBegin(0, "a", "c0", Intent(memory="64M")))  # type: ignore[arg-type]
    for number in range(3):
        assert (
            begun(state, f"c{number + 1}", Intent(command="pytest")).because.figures.get(
                "learned_bytes"
            )
            is None
        )
        step(state, i.CallEnd(0, f"c{number + 1}", 500 * MIB))
    placed = begun(state, "c5", Intent(command="pytest -x"))
    assert placed.limits.memory_high_bytes == 560 * MIB
    assert placed.because.figures["learned_bytes"] == 560 * MIB
    declared = begun(state, "c6", Intent(command="pytest", memory="50M"))  # type: ignore[arg-type]
    assert declared.limits.memory_high_bytes == 50 * MIB
    assert "learned_bytes" not in declared.because.figures


def test_learned_peaks_never_keep_a_call_waiting() -> None:
    state = new_state(GIB)
    step(state, i.SessionBegin(0, "b", Priority.NORMAL, None, 0))
    for _ in range(3):
        step(state, i.PastPeak(0, "pytest", 4 * GIB))
    assert begun(state, "c1", Intent(command="pytest")).limits.memory_high_bytes == GIB
    assert begun(state, "c2", Intent(command="pytest")).limits.memory_high_bytes
