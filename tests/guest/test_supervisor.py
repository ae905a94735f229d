# SPDX-License-Identifier: Apache-2.0
"""An agent that loops is observed, advised, and in enforce ended; one that gets on is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from harness import PrivateDaemon, alive, until
from session_agent import Agent, agent

pytestmark = [pytest.mark.guest, pytest.mark.agents]

# Reports steps as an agent would; prints the answers. argv: how many, loops or gets on.
REPORTER = """
import json, sys
from agentcgroup import Client
client = Client()
for at in range(int(sys.argv[1])):
    text = "I will search again" if sys.argv[2] == "loops" else f"step {at}: found part {at * 7}"
    told = client.report_step(step=at, prompt_tokens=2000 + 100 * at, completion_tokens=20,
                              text=text, tool_calls=["bash"], energy_j=1.5)
    print(json.dumps([told.advice, told.reason]))
"""


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that everybody may reach."""
    directory = Path("/run/agents")
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    made = directory / tmp_path_factory.mktemp("supervisor").name
    made.mkdir(exist_ok=True)
    (made / "report.py").write_text(REPORTER)
    return made


def report(mine: Agent, place: Path, steps: int, manner: str) -> list[tuple[str, str]]:
    status, told = mine.run(f"{sys.executable} {place}/report.py {steps} {manner}")
    assert status == 0, told
    return [tuple(json.loads(line)) for line in told.splitlines()]


@pytest.mark.long
def test_observe_is_the_default_and_only_logs(place: Path) -> None:
    log = place / "decisions.jsonl"
    with PrivateDaemon(daemon={"decision_log": str(log)}) as daemon:
        daemon.start()
        with agent(daemon, place) as mine:
            daemon.client.create_session("s", memory="200M", pidfd=mine.pidfd)
            told = report(mine, place, 5, "loops")
            assert [advice for advice, _ in told] == ["continue"] * 5
            assert told[3][1] == "only observed, else stop: the last 4 steps are the same"
            info = daemon.client.session("s")
            assert (info.steps, info.energy_j) == (5, 7.5)
            daemon.client.end_session("s")
        assert daemon.stop() == 0  # a daemon that is killed leaves the log's tail unwritten
    records = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    advised = [r for r in records if r.get("action") == "advise"]
    assert advised and all(r["observed_only"] and r["advice"] == "stop" for r in advised)
    assert sum(r["kind"] == "step" for r in records) == 5


def test_enforce_ends_who_loops_and_leaves_who_gets_on(place: Path) -> None:
    """The one that gets on is slow and long; the one that loops has a call that runs."""
    with PrivateDaemon(supervisor={"mode": "enforce", "stop_grace_s": 5}) as daemon:
        daemon.start()
        with agent(daemon, place) as mine:
            daemon.client.create_session("good", memory="200M", pidfd=mine.pidfd)
            told = report(mine, place, 40, "gets-on")
            assert {advice for advice, _ in told} == {"continue"}
            assert [s.name for s in daemon.client.sessions()] == ["good"]
            assert alive(mine.pid)
            daemon.client.end_session("good")
        with agent(daemon, place) as mine:
            daemon.client.create_session("bad", memory="200M", pidfd=mine.pidfd)
            mine.start("agentcgroup-run -- sleep 600")
            until(lambda: daemon.client.session("bad").calls, "its call runs")
            told = report(mine, place, 4, "loops")
            assert [advice for advice, _ in told] == ["continue"] * 3 + ["stop"]
            until(lambda: not daemon.client.sessions(), "its session ends", daemon.log_text)
            until(lambda: not alive(mine.pid), "the agent inside ends with it")
            (call,) = daemon.client.calls()
            assert call.outcome is not None
            assert call.outcome.reason.value == "stopped_by_supervisor"


@pytest.mark.long
@pytest.mark.parametrize("permitted", [False, True])
def test_an_outside_agent_is_killed_only_if_that_was_agreed(place: Path, permitted: bool) -> None:
    with PrivateDaemon(supervisor={"mode": "enforce", "stop_grace_s": 5}) as daemon:
        daemon.start()
        with agent(daemon, place) as mine:
            daemon.client.create_session(
                "out", memory="200M", kind="outside", stop_agent=permitted, pidfd=mine.pidfd
            )
            told = report(mine, place, 4, "loops")
            assert told[-1][0] == "stop"
            until(lambda: not daemon.client.sessions(), "its session ends", daemon.log_text)
            if permitted:
                until(lambda: mine.process.poll() is not None, "the agent is killed")
            else:
                status, said = mine.run("agentcgroup-run -- true")
                assert status == 77, said  # in no session any more
                assert alive(mine.pid)
