# SPDX-License-Identifier: Apache-2.0
"""How many fit: sums with known answers, simulated draws, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentcgroup.cli.trace import app
from agentcgroup.errors import InvalidValueError
from agentcgroup.simulate.capacity import CapacityHost, Target, capacity, wilson_interval
from agentcgroup.simulate.run import SimulatedPolicy, SimulationOptions
from agentcgroup.trace.jobs import Granularity, SessionJob, make_jobs
from agentcgroup.trace.model import CallSpan, SessionTrace, split_calls
from agentcgroup.types.intents import Priority

MB = 10**6
SMALL = Path(__file__).parents[1] / "data-small" / "agentcgroup-sets"
run = CliRunner()


def jobs(*, cores: float = 0.5, burst_mb: int = 800) -> list[SessionJob]:
    """100 s at 200 MB, a tool call with a burst for 10 s in the middle, constant CPU."""
    sizes = [200 * MB] * 101
    sizes[50:60] = [burst_mb * MB] * 10
    samples = tuple((float(t), size) for t, size in enumerate(sizes))
    calls, agent = split_calls(samples, [CallSpan(49.5, 60.5, "Bash")])
    cpu = tuple((float(t), cores * t) for t in range(101))
    trace = SessionTrace("t", samples, calls, agent, cpu)
    options = SimulationOptions(
        total_memory_bytes=1 << 40, base_memory_bytes=0, granularity=Granularity.TOOL
    )
    return make_jobs([trace], [Priority.NORMAL], options)


QUICK = Target(draws=40, runs=1)


def test_fixed_peaks_add_up() -> None:
    cell = capacity(SimulatedPolicy.STATIC_PEAK, jobs(), CapacityHost(8100 * MB), QUICK)
    assert cell.agents == 10
    assert [p.agents for p in cell.curve] == sorted(p.agents for p in cell.curve)


def test_who_knows_all_fits_more_and_never_less_than_means() -> None:
    cell = capacity(SimulatedPolicy.CLAIRVOYANT, jobs(), CapacityHost(8100 * MB), QUICK)
    assert 10 < cell.agents < 40


def test_cpu_can_be_what_is_short() -> None:
    host = CapacityHost(100_000 * MB, cores=4.0)
    cell = capacity(SimulatedPolicy.CLAIRVOYANT, jobs(), host, QUICK)
    assert 8 <= cell.agents <= 12
    more = capacity(SimulatedPolicy.CLAIRVOYANT, jobs(cores=0.25), host, QUICK)
    assert more.agents > cell.agents


def test_simulated_policy_is_between_fixed_peaks_and_all_knowing() -> None:
    host = CapacityHost(8100 * MB)
    cells = {
        policy: capacity(policy, jobs(), host, QUICK)
        for policy in (SimulatedPolicy.AGENTCGROUP, SimulatedPolicy.NONE)
    }
    ours = cells[SimulatedPolicy.AGENTCGROUP]
    assert ours.agents >= 8
    assert ours.at is not None and ours.at.kills == 0
    assert ours.at.slowdown_mean is not None and ours.at.slowdown_mean <= 1.05
    beyond = [p for p in cells[SimulatedPolicy.NONE].curve if p.agents > 40]
    assert all(p.kills for p in beyond)


@pytest.mark.parametrize(("good", "of"), [(0, 10), (5, 10), (10, 10), (200, 200)])
def test_interval_of_a_share(good: int, of: int) -> None:
    low, high = wilson_interval(good, of)
    assert 0 <= low <= good / of <= high <= 1
    assert high - low < 0.6


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    done = run.invoke(
        app,
        ["capacity", str(SMALL), "--memory", "4GB,8GB", "--cores", "8", "--policies",
         "clairvoyant,static-peak", "--draws", "20", "--processes", "1", "--json", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["schema"] == 1
    assert report["traces"] == 10, "the run of 20 s is left out"
    assert len(report["cells"]) == 4
    for cell in report["cells"]:
        assert cell["at"]["ok_draws"] >= 0.95 * cell["at"]["draws"]
        assert cell["ok_share_ci95"][0] <= cell["at"]["ok_draws"] / cell["at"]["draws"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--policies", "magic"], "--policies"),
        (["--policies", "static-mean"], "--policies"),
        (["--memory", "lots"], "--memory"),
        (["--cores", "-1"], "--cores"),
        (["--max-slowdown", "0.5"], "--max-slowdown"),
    ],
)
def test_nonsense_is_refused_by_name(arguments: list[str], field: str) -> None:
    problem = run.invoke(app, ["capacity", str(SMALL), "--memory", "1G", *arguments]).exception
    assert isinstance(problem, InvalidValueError)
    assert problem.field == field
