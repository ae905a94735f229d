# SPDX-License-Identifier: Apache-2.0
"""Files from outside: whatever is in them, they are read whole or refused, never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.errors import FormatError
from agentcgroup.supervisor.predictor import Predictor, load, shipped_models
from agentcgroup.supervisor.trajectories import read_runs

MODEL = next(iter(shipped_models().values())).read_bytes()
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fields = ("id", "steps", "success", "total_energy_mwh", "answerable_without_agent")
step_fields = ("step", "prompt_tokens", "completion_tokens", "energy_mwh", "logprobs", "tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@settings(deadline=None)
@given(at=st.integers(0, len(MODEL) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_changed_or_cut_model_is_refused(folder: Path, at: int, byte: int, cut: bool) -> None:
    changed = MODEL[:at] if cut else MODEL[:at] + bytes([byte]) + MODEL[at + 1 :]
    path = folder / "m.json"
    path.write_bytes(changed)
    try:
        loaded = load(path)
    except FormatError:
        return
    # A blank beside a comma, or the last newline, says nothing.
    assert loaded == Predictor.model_validate(
        {key: value for key, value in json.loads(MODEL).items() if key != "checksum"}
    )


@st.composite
def run_like(draw: st.DrawFn) -> dict[str, Any]:
    """A run with some fields of any kind, so that every check has something to refuse."""
    steps: list[dict[str, Any]] = [
        {"step": at, "prompt_tokens": 10, "completion_tokens": 2}
        for at in range(draw(st.integers(0, 3)))
    ]
    run: dict[str, Any] = {"id": "r", "success": True, "steps": steps}
    for name in draw(st.lists(st.sampled_from(fields), max_size=2)):
        run[name] = draw(json_values)
    if steps and draw(st.booleans()):
        steps[-1][draw(st.sampled_from(step_fields))] = draw(json_values)
    return run


@settings(deadline=None)
@given(run=run_like())
def test_runs_are_read_or_refused_by_name(folder: Path, run: dict[str, Any]) -> None:
    path = folder / "runs.jsonl"
    path.write_text(json.dumps(run) + "\n", encoding="utf-8")
    try:
        (found,) = read_runs([path])
    except FormatError as refused:
        assert refused.field and refused.remedy
        return
    assert found.id and found.steps


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_runs_are_refused(folder: Path, content: bytes) -> None:
    path = folder / "bytes.jsonl"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_runs([path])
