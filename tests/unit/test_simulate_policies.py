# SPDX-License-Identifier: Apache-2.0
"""Who divides the simulated memory: the kernel's killer, fixed shares, who knows the future."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import InvalidValueError
from agentcgroup.simulate.cpu import fair_share
from agentcgroup.simulate.fleet import fleet
from agentcgroup.simulate.governor import NoGovernor, ShareGovernor
from agentcgroup.simulate.governor_clairvoyant import ClairvoyantGovernor
from agentcgroup.simulate.host import HostModel, Result
from agentcgroup.simulate.process import CallPlan, SessionPlan
from agentcgroup.simulate.run import SimulatedPolicy, SimulationOptions, simulate_policy
from agentcgroup.simulate.world import World
from agentcgroup.trace.jobs import Granularity, load_jobs
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.units import MIB

S = 1_000_000_000
TRACES = Path(__file__).parents[2] / "traces"
KILLING = HostModel(kills_at_budget=True)
run = CliRunner()


def plan(*levels: tuple[float, int], begin_s: float = 0.0) -> CallPlan:
    steps = [(int(at_s * S), size * MIB) for at_s, size in levels]
    return CallPlan(int(begin_s * S), steps, 0, Intent())


def session(name: str, *calls: CallPlan, priority: str = "normal") -> SessionPlan:
    need = max(call.peak_bytes for call in calls)
    return SessionPlan(name, priority, calls, need_bytes=need, mean_bytes=need // 2)


def play(budget_mib: int, sessions: list[SessionPlan], governor: object) -> Result:
    return World(budget_mib * MIB, sessions, governor=governor, host=KILLING).run()  # type: ignore[arg-type]


BURST = plan((0, 100), (1, 600), (2, 100), (3, 0))
SMALL = plan((0, 50), (3, 0))


def test_without_anybody_the_biggest_dies_when_the_budget_is_full() -> None:
    result = play(
        1000, [session("a", BURST), session("b", BURST), session("c", SMALL)], NoGovernor()
    )
    assert [call.reason for call in result.lost] == ["oom_killed"]
    assert sum(s.oom_kills for s in result.sessions.values()) == 1
    assert result.sessions["c"].reached_end
    assert result.most_held_bytes <= 1000 * MIB * 1.001
    assert result.overrun_ns == 0


def test_a_share_that_is_too_small_costs_the_session() -> None:
    sessions = [session("a", BURST), session("b", SMALL)]
    shares = ShareGovernor({"a": 500 * MIB, "b": 500 * MIB}, 1000 * MIB, waits=False)
    result = play(1000, sessions, shares)
    assert [call.session for call in result.lost] == ["a"]
    assert result.sessions["b"].reached_end


def test_shares_of_the_peak_are_waited_for() -> None:
    sessions = [session("a", BURST), session("b", BURST)]
    shares = ShareGovernor({"a": 600 * MIB, "b": 600 * MIB}, 1000 * MIB, waits=True)
    result = play(1000, sessions, shares)
    assert not result.lost
    assert result.sessions["b"].waited_ns == pytest.approx(3 * S, rel=0.01)
    assert result.makespan_ns == pytest.approx(6 * S, rel=0.01)


def test_an_agent_that_is_the_biggest_ends_its_session() -> None:
    big = SessionPlan("a", "normal", [SMALL], agent_levels=((0, 100 * MIB), (S, 990 * MIB)))
    result = play(1000, [big], NoGovernor())
    assert result.sessions["a"].oom_kills == 1
    assert not result.sessions["a"].reached_end


def test_who_knows_the_peaks_lets_twins_take_turns() -> None:
    result = play(1000, [session("a", BURST), session("b", BURST)], ClairvoyantGovernor())
    assert not result.lost
    assert result.makespan_ns < 4 * S


levels = st.lists(st.integers(4, 900), min_size=1, max_size=5)
drawn_sessions = st.lists(
    st.tuples(
        st.sampled_from(("high", "normal", "low")),
        st.lists(st.tuples(st.integers(0, 2000), levels, st.integers(50, 900)), max_size=3),
    ),
    min_size=1,
    max_size=5,
)


def made(drawn: list[tuple[str, list[tuple[int, list[int], int]]]]) -> list[SessionPlan]:
    found = []
    for number, (priority, calls) in enumerate(drawn):
        at_ms, plans = 0, []
        for pause_ms, sizes, step_ms in calls:
            at_ms += pause_ms
            steps = [(n * step_ms * 10**6, size * MIB) for n, size in enumerate(sizes)]
            steps.append((len(sizes) * step_ms * 10**6, 0))
            plans.append(CallPlan(at_ms * 10**6, steps, 0, Intent()))
        found.append(SessionPlan(f"s{number}", priority, plans))
    return found


@given(drawn_sessions)
# Full to the last byte, reached by two at once.
@example([("high", [(0, [4, 250, 500], 246)]), ("high", [(245, [249, 500], 246)])])
@settings(max_examples=40, deadline=None)
def test_who_knows_the_peaks_kills_nobody_and_all_end(
    drawn: list[tuple[str, list[tuple[int, list[int], int]]]],
) -> None:
    """Each call fits by itself, so there is always an order."""
    result = play(1000, made(drawn), ClairvoyantGovernor())
    assert not result.lost
    assert all(s.reached_end for s in result.sessions.values())
    assert result.overrun_ns == 0


@given(drawn_sessions, st.sampled_from(("none", "daemon", "clairvoyant")))
@settings(max_examples=30, deadline=None)
def test_the_same_twice_gives_the_same(
    drawn: list[tuple[str, list[tuple[int, list[int], int]]]], who: str
) -> None:
    governors = {"none": NoGovernor, "clairvoyant": ClairvoyantGovernor, "daemon": lambda: None}
    first, second = (play(1000, made(drawn), governors[who]()) for _ in range(2))
    assert first == second


@given(
    st.lists(st.tuples(st.floats(0, 30), st.sampled_from((1, 2, 4))), max_size=8),
    st.floats(0.5, 40),
)
@settings(deadline=None)
def test_cpu_shares_are_used_up_and_nobody_gets_more_than_asked(
    demands: list[tuple[float, int]], cores: float
) -> None:
    given_ = fair_share(demands, cores)
    asked = sum(wanted for wanted, _ in demands)
    assert sum(given_) == pytest.approx(min(asked, cores), abs=1e-6)
    assert all(got <= wanted + 1e-9 for got, (wanted, _) in zip(given_, demands, strict=True))


def test_two_that_want_the_one_core_take_twice_as_long() -> None:
    call = plan((0, 10), (10, 10))
    busy = [
        SessionPlan(name, "normal", [call], cpu=((0, 1.0),), parallel=True) for name in ("a", "b")
    ]
    host = HostModel(cores=1.0, catches_up=False)
    result = World(1000 * MIB, busy, governor=NoGovernor(), host=host).run()
    assert result.makespan_ns == pytest.approx(20 * S, rel=0.11)


def jobs() -> tuple[list[Path], SimulationOptions]:
    paths = [TRACES / f"{name}.jsonl.gz" for name in ("pytest", "numpy", "numpy")]
    return paths, SimulationOptions(
        total_memory_bytes=900 * MIB, speed=20, base_memory_bytes=50 * MIB,
        granularity=Granularity.SESSION,
    )  # fmt: skip


@pytest.mark.parametrize("policy", list(SimulatedPolicy))
def test_every_policy_on_own_traces(policy: SimulatedPolicy) -> None:
    paths, options = jobs()
    loaded = load_jobs(paths, [Priority.HIGH, Priority.LOW, Priority.LOW], options)
    result = simulate_policy(policy, loaded, options)
    assert len({s.name for s in result.sessions}) == 3
    alive = [s.survived for s in result.sessions]
    if policy in (SimulatedPolicy.ALONE, SimulatedPolicy.CLAIRVOYANT, SimulatedPolicy.STATIC_PEAK):
        assert all(alive)
        assert result.kills == 0
    if policy is SimulatedPolicy.NONE:
        assert not all(alive)
        assert result.kills > 0
    for found in result.sessions:
        assert (found.completion_s is not None) or not found.survived
        assert found.timeline


def test_a_longer_fleet_takes_no_more_memory() -> None:
    paths, _ = jobs()
    options = SimulationOptions(
        total_memory_bytes=1 << 40, base_memory_bytes=0, granularity=Granularity.TOOL
    )
    loaded = load_jobs(paths[:1], [Priority.NORMAL], options)
    sizes = []
    for hours in (0.5, 1):
        plans = fleet(loaded, 3, hours * 3600.0, seed=3)
        world = World(1 << 40, plans, host=KILLING, keep_calls=False)
        result = world.run(limit_s=hours * 3600)
        assert sum(s.calls for s in result.sessions.values()) > 50 * hours
        assert not result.calls
        kept = sum(len(s.points) + len(s.latencies_ns) for s in result.sessions.values())
        sizes.append(kept + len(result.decisions) + len(world._events))
    assert sizes[1] < 3 * (4000 + 4096) + 2000 + 200


def test_command_writes_the_schema_of_a_replay(tmp_path: Path) -> None:
    out, plot = tmp_path / "o.json", tmp_path / "o.png"
    paths, _ = jobs()
    done = run.invoke(
        app,
        ["simulate", *map(str, paths), "--total-memory", "900M", "--speed", "20",
         "--base-memory", "50M", "--priority", "high,low,low",
         "--policies", "none,agentcgroup,clairvoyant", "--json", str(out), "--plot", str(plot)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["schema"] == 1
    assert [r["policy"] for r in report["runs"]] == ["none", "agentcgroup", "clairvoyant"]
    session_ = report["runs"][1]["sessions"][0]
    assert {
        "name", "priority", "survived", "completion_s", "oom_kills", "peak_memory_bytes",
        "waited_ms", "throttled_ms", "frozen_ms", "alloc_latency_ms",
    } <= session_.keys()  # fmt: skip
    assert {"p50", "p95", "p99", "max", "count"} == session_["alloc_latency_ms"].keys()
    assert any(row["baseline"] == "none" for row in report["ratios"])
    assert plot.stat().st_size > 5000


def test_rounds_differ_by_their_noise_alone(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    paths, _ = jobs()
    for intent, differ in (("none", False), ("noisy", True)):
        done = run.invoke(
            app,
            ["simulate", *map(str, paths), "--total-memory", "900M", "--speed", "20", "--runs",
             "2", "--intent", intent, "--base-memory", "50M", "--layers", "files", "--json",
             str(out)],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        first, second = json.loads(out.read_text())["runs"]
        assert (first["run"], first["seed"], second["run"], second["seed"]) == (1, 0, 2, 1)
        assert (first["sessions"] != second["sessions"]) is differ


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--policy", "magic"], "--policy"),
        (["--policies", "none,none"], "--policy"),
        (["--speed", "0"], "--speed"),
        (["--total-memory", "1M"], "--total-memory"),
        (["--cores", "none"], "--cores"),
        (["--layers", "magic"], "--layers"),
    ],
)
def test_nonsense_is_refused_by_name(arguments: list[str], field: str) -> None:
    base = ["simulate", str(TRACES / "numpy.jsonl.gz"), "--total-memory", "1G"]
    problem = run.invoke(app, [*base, *arguments]).exception
    assert isinstance(problem, InvalidValueError)
    assert problem.field == field
