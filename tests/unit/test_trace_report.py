# SPDX-License-Identifier: Apache-2.0
"""The report: whole without anything else, everything foreign escaped, errors by name."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import FormatError
from agentcgroup.trace.format import TraceWriter
from agentcgroup.trace.report.build import build_report
from agentcgroup.trace.report.svg import Axis, Chart, nice_ticks

SMALL = Path(__file__).parents[1] / "data-small"
TRACES = Path(__file__).parents[2] / "traces"
EVIL = "<script>alert(1)</script>\x1b[31m\"'"
VOID = {"meta", "br", "img"}
run = CliRunner()


class Strict(HTMLParser):
    """Every tag is closed, and nothing is loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert name not in ("src", "href") and not name.startswith("on"), (tag, name, value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert not {"script", "link", "iframe", "img"} & parser.tags
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    assert "url(" not in text and "@import" not in text
    return parser


@pytest.fixture
def runs_file(tmp_path: Path) -> Path:
    out = tmp_path / "runs.json"
    arguments = [str(TRACES / f"{name}.jsonl.gz") for name in ("pytest", "numpy", "numpy")]
    done = run.invoke(
        app,
        ["simulate", *arguments, "--total-memory", "900M", "--speed", "20", "--base-memory", "50M",
         "--priority", "high,low,low", "--policies", "none,agentcgroup", "--json", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def capacity_file(tmp_path: Path) -> Path:
    out = tmp_path / "capacity.json"
    curve = [{"agents": n, "draws": 200, "ok_draws": 200 - n} for n in (8, 16, 32)]
    cells = [
        {"memory_bytes": 10**9, "cores": None, "policy": p, "agents": 16, "curve": curve}
        for p in ("clairvoyant", "static-peak")
    ]
    out.write_text(json.dumps({"schema": 1, "cells": cells}))
    return out


def decision_log(path: Path) -> Path:
    about: dict[str, Any] = {"session": "s", "call": "c1"}
    decided = {"kind": "decision", **about}
    with TraceWriter(path, epoch_ns=0) as writer:
        for t_s, record in (
            (0, {"kind": "session", "session": "s"}),
            (1, {"kind": "call_begin", **about, "tool": EVIL, "command": EVIL}),
            (1, {**decided, "action": "wait", "code": "no_memory_free", "why": EVIL}),
            (3, {**decided, "action": "place", "limits": {"memory_high_bytes": 1 << 28}}),
            (4, {"kind": "sample", "session": "s", "memory_current_bytes": 1 << 27}),
            (5, {**decided, "action": "setgrant", "grant_bytes": 1 << 29}),
            (6, {"kind": "sample", "session": "s", "memory_current_bytes": 1 << 28}),
            (7, {**decided, "action": "kill", "code": "deadlock", "why": "stuck"}),
            (8, {"kind": "call_end", **about, "reason": "killed_by_policy"}),
        ):  # fmt: skip
            writer.write({"t_ns": t_s * 10**9, **record})
    return path


def test_everything_in_one_file(tmp_path: Path, runs_file: Path, capacity_file: Path) -> None:
    out = tmp_path / "report.html"
    sources = [runs_file, capacity_file, TRACES / "git.jsonl.gz", SMALL / "agentcgroup-task"]
    done = run.invoke(app, ["report", *map(str, sources), "-o", str(out), "--title", "A & B"])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    checked(text)
    for heading in (
        "A &amp; B", "Policies compared", "Memory over time", "Allocation latency",
        "How many agents fit", "Sessions of git.jsonl.gz", "Reasons",
    ):  # fmt: skip
        assert heading in text
    assert "prefers-color-scheme: dark" in text
    for axis in ("memory (MiB)", "seconds", "ms (log scale)", "share of draws that fit"):
        assert axis in text
    assert "none" in text and "throttled_too_long" in text


def test_decision_log_shows_limits_waits_and_kills(tmp_path: Path) -> None:
    text = build_report([decision_log(tmp_path / "log.jsonl")], EVIL)
    checked(text)
    assert "<script>alert" not in text and "\x1b" not in text
    assert 'class="limit"' in text and 'class="wait"' in text and 'class="kill"' in text
    assert "no_memory_free" in text and "stuck" in text


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"runs": [{"run": 1}]}, "runs.0.policy"),
        ({"runs": [{"run": 1, "policy": "x", "makespan_s": -1, "sessions": []}]}, "makespan_s"),
        ({"cells": [{"memory_bytes": "x"}]}, "memory_bytes"),
    ],
)
def test_bad_documents_name_file_and_field(
    tmp_path: Path, document: dict[str, Any], field: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError) as failure:
        build_report([path], "x")
    assert field in failure.value.field
    assert str(path) in failure.value.field


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12))
@example(122244824876.0, 6.103515625e-05)
def test_ticks_are_round_few_and_inside(low: float, span: float) -> None:
    high = low + span
    if high <= low:
        return
    ticks = nice_ticks(low, high)
    assert len(ticks) <= 8
    # No number lies between two neighbours.
    slack = max(span * 1e-5, math.ulp(max(abs(low), abs(high))))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_what_lies_outside_is_drawn_at_the_edge() -> None:
    chart = Chart(300, 200, Axis(0, 10, "x"), Axis(1, 100, "y", log=True), "t")
    assert chart.px(-5) == chart.px(0) < chart.px(20) == chart.px(10)
    assert chart.py(0) == chart.py(1) > chart.py(1e9) == chart.py(100)
