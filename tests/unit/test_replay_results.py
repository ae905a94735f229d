# SPDX-License-Identifier: Apache-2.0
"""Percentiles by the reference's definition, survival, ratios with intervals, the JSON's keys."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agentcgroup.errors import InvalidValueError
from agentcgroup.replay.compare import who_lost
from agentcgroup.replay.options import Policy, ReplayOptions, spread_priorities
from agentcgroup.trace.ratios import ratio_with_interval, ratios
from agentcgroup.trace.results import RunResult, SessionResult, latency_summary, survived
from agentcgroup.trace.run_files import report_json, write_report
from agentcgroup.types.intents import Priority


def test_percentiles_as_in_the_reference() -> None:
    assert latency_summary([]) == {"p50": None, "p95": None, "p99": None, "max": None, "count": 0}
    few = latency_summary([3.0, 1.0, 2.0])
    assert (few["p50"], few["p95"], few["p99"], few["max"], few["count"]) == (2.0, 3.0, 3.0, 3.0, 3)
    sixty_one = latency_summary([float(n) for n in range(61)])
    assert (sixty_one["p50"], sixty_one["p95"], sixty_one["p99"]) == (30.0, 57.0, 60.0)
    hundred = latency_summary([float(n) for n in range(100)])
    assert (hundred["p50"], hundred["p95"], hundred["p99"], hundred["max"]) == (50, 95, 99, 99)


@pytest.mark.parametrize(
    ("reached", "peak", "expected"),
    [(True, 1000, True), (True, 990, True), (True, 989, False), (False, 1000, False)],
)
def test_survival_needs_the_last_sample_and_the_peak(
    reached: bool, peak: int, expected: bool
) -> None:
    assert survived(reached, peak, 1000) is expected


def _run(
    policy: str, number: int, makespan_s: float, p95_ms: float, alive: bool = True
) -> RunResult:
    high = SessionResult("h", Priority.HIGH, 100)
    high.survived, high.completion_s = True, makespan_s - 1
    high.latencies_ms, high.ended_s, high.oom_kills = [p95_ms], makespan_s - 1, 0
    low = SessionResult("l", Priority.LOW, 100)
    low.survived, low.completion_s = alive, makespan_s if alive else None
    low.latencies_ms, low.ended_s, low.oom_kills = [9e9], makespan_s, int(not alive)
    return RunResult(number, policy, ["files"], 0, [high, low])


def test_ratios_pair_runs_and_take_the_high_sessions() -> None:
    runs = [
        _run("alone", 1, 10, 50), _run("agentcgroup", 1, 12, 100),
        _run("agentcgroup", 2, 24, 120), _run("alone", 2, 20, 60),
        _run("none", 1, 11, 70, alive=False), _run("none", 2, 22, 80, alive=False),
    ]  # fmt: skip
    rows = {(r["metric"], r["policy"], r["baseline"]): r for r in ratios(runs, 0)}
    makespan = rows["makespan_s", "agentcgroup", "alone"]
    assert makespan["ratio"] == pytest.approx(1.2)
    assert makespan["ci95"] == [pytest.approx(1.2), pytest.approx(1.2)]
    assert makespan["pairs"] == 2
    p95 = rows["high_alloc_p95_ms", "agentcgroup", "alone"]
    assert p95["ratio"] == pytest.approx(2.0)
    assert p95["ci95"][0] <= 2.0 <= p95["ci95"][1]
    assert rows["survived", "agentcgroup", "none"]["ratio"] == 2.0
    assert ("makespan_s", "none", "none") not in rows


def test_a_lost_high_session_has_no_latency_ratio() -> None:
    lost = _run("none", 1, 10, 50)
    lost.sessions[0].survived = False
    lost.sessions[0].completion_s = None
    metrics = {r["metric"] for r in ratios([lost, _run("alone", 1, 10, 50)], 0)}
    assert metrics == {"makespan_s", "survived"}


def test_one_pair_has_no_interval_and_the_seed_decides() -> None:
    assert ratio_with_interval([(3.0, 2.0)], random.Random(0)) == (1.5, None)
    pairs = [(1.0, 2.0), (5.0, 2.0), (2.0, 3.0)]
    first = ratio_with_interval(pairs, random.Random(7))
    assert first == ratio_with_interval(pairs, random.Random(7))
    assert first[1] is not None
    assert first[1][0] <= first[0] <= first[1][1]


def test_report_has_the_stable_keys(tmp_path: Path) -> None:
    runs = [_run("none", 1, 10, 50, alive=False), _run("alone", 1, 10, 50)]
    write_report(tmp_path / "r.json", runs, 0)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads(json.dumps(report_json(runs, 0)))
    assert report["schema"] == 1
    assert {"run", "policy", "layers", "seed", "makespan_s", "sessions"} <= report["runs"][0].keys()
    assert {
        "name", "priority", "survived", "completion_s", "oom_kills", "peak_memory_bytes",
        "waited_ms", "throttled_ms", "frozen_ms", "alloc_latency_ms",
    } <= report["runs"][0]["sessions"][0].keys()  # fmt: skip
    latency = report["runs"][0]["sessions"][0]["alloc_latency_ms"]
    assert latency.keys() == {"p50", "p95", "p99", "max", "count"}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert who_lost(runs, Policy.NONE) == ["run 1: l"]
    assert who_lost(runs, Policy.ALONE) == []


def test_priorities_are_spread_over_the_traces() -> None:
    high, low = Priority.HIGH, Priority.LOW
    assert spread_priorities("high,low", 3) == [high, low, low]
    for text, count in (("high,low", 1), ("urgent", 2), ("", 1)):
        with pytest.raises(InvalidValueError, match="--priority"):
            spread_priorities(text, count)


@pytest.mark.parametrize(("field", "value"), [("speed", 0), ("total_memory_bytes", 5)])
def test_options_refuse_nonsense(field: str, value: int) -> None:
    with pytest.raises(InvalidValueError):
        ReplayOptions(**{"total_memory_bytes": 1 << 30, field: value})  # type: ignore[arg-type]
