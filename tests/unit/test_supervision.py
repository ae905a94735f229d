# SPDX-License-Identifier: Apache-2.0
"""Steps in the daemon: modes, what it saw itself, ends of sessions; through a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_support import a_call, a_session, on_a_core
from server_support import RawClient, RunningServer, line
from supervisor_runs import made_up_runs, write_runs

from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon.config import SupervisionMode, SupervisorConfig
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.records import SessionRecord
from agentcgroup.daemon.supervision import Supervision, load_predictor
from agentcgroup.errors import ConfigError, InvalidValueError
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.supervisor.features import feature_set
from agentcgroup.supervisor.fitting import FULL_CANDIDATES
from agentcgroup.supervisor.predictor import Predictor, save
from agentcgroup.supervisor.rules import RuleLimits
from agentcgroup.supervisor.training import TrainingOptions, train
from agentcgroup.supervisor.trajectories import read_runs
from agentcgroup.types.outcomes import Outcome, Reason
from agentcgroup.types.sessions import Mode
from agentcgroup.types.steps import StepReport
from agentcgroup.units import MIB


def step(at: int, **told: Any) -> StepReport:
    fields = {"step": at, "prompt_tokens": 100, "completion_tokens": 3, **told}
    return StepReport.model_validate(fields)


def config(mode: str, **told: Any) -> SupervisorConfig:
    limits = RuleLimits(max_steps=2)
    return SupervisorConfig.model_validate({"mode": mode, "limits": limits, **told})


class World:
    """A core on the in-memory tree with one session; which sessions were ended."""

    def __init__(self, core: Core, root: FakeCgroup, told: SupervisorConfig, **how: Any) -> None:
        self.core = core
        self.record = a_session(core, root, "s", **how)
        self.supervision = Supervision(core, told, None)
        self.supervision.end_session = self._end
        self.ended: list[str] = []
        self.events: list[dict[str, Any]] = []
        core.decisions.subscribe(1, self.events.append)

    async def _end(self, record: SessionRecord) -> None:
        self.ended.append(record.name)

    def steps(self, count: int) -> list[str]:
        return [self.supervision.step(self.record, step(at)).advice for at in range(count)]

    def actions(self) -> list[tuple[str, bool]]:
        return [
            (event["action"], event.get("observed_only", False))
            for event in self.events if event["kind"] == "decision"
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "advice", "ended", "actions"),
    [
        ("off", ["continue"] * 3, [], []),
        ("observe", ["continue"] * 3, [], [("advise", True)] * 2),
        ("advise", ["continue", "stop", "stop"], [], [("advise", False)] * 2),
        (
            "enforce", ["continue", "stop", "stop"], ["s"],
            [("advise", False), ("advise", False), ("end_session", False)],
        ),
    ],
)  # fmt: skip
def test_modes(
    mode: str, advice: list[str], ended: list[str], actions: list[tuple[str, bool]]
) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, config(mode, stop_grace_s=0.01))
        assert world.steps(3) == advice
        assert world.ended == []
        await asyncio.sleep(0.1)
        assert world.ended == ended
        assert world.actions() == actions
        assert sum(event["kind"] == "step" for event in world.events) == 3

    on_a_core(check)


def test_observe_tells_the_reason_but_not_the_agent() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, config("observe"))
        world.steps(1)
        told = world.supervision.step(world.record, step(1))
        assert (told.advice, told.predictor) == ("continue", "rules")
        assert told.reason == "only observed, else stop: 2 steps reach the cap of 2"

    on_a_core(check)


@pytest.mark.parametrize(
    ("told", "how"), [({"protect": ["s*"]}, {}), ({}, {"mode": Mode.OBSERVE})]
)  # fmt: skip
def test_who_is_protected_or_only_observed_is_never_ended(
    told: dict[str, Any], how: dict[str, Any]
) -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, config("enforce", stop_grace_s=0.01, **told), **how)
        assert world.steps(3)[-1] == "stop"
        await asyncio.sleep(0.05)
        assert world.ended == []

    on_a_core(check)


def test_a_new_session_of_the_same_name_starts_anew() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, config("enforce", stop_grace_s=0.01))
        assert world.steps(2)[-1] == "stop"
        del core.sessions["s"]
        core.state.sessions.pop("s")
        root.child("s").remove_tree()
        world.record = a_session(core, root, "s")
        assert world.supervision.step(world.record, step(0)).advice == "continue"
        await asyncio.sleep(0.05)
        assert world.ended == []  # the grace was another session's

    on_a_core(check)


def test_what_the_daemon_saw_goes_into_the_rules() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, SupervisorConfig(mode=SupervisionMode.ADVISE))
        for at in range(3):
            call = a_call(core, world.record, f"c{at}", placed=False)
            outcome = Outcome(
                call=call.name, session="s", reason=Reason.OOM_KILLED, command="pytest",
                peak_memory_bytes=512 * MIB, cpu_s=1.0,
            )  # fmt: skip
            assert core.on_call_ended is not None
            core.on_call_ended(call, outcome)
            told = world.supervision.step(world.record, step(at, text=f"try {at}"))
        assert told.advice == "stop"
        assert told.reason == "every tool call of the last 3 steps with one failed"

    on_a_core(check)


def test_steps_and_energy_are_the_sessions() -> None:
    async def check(core: Core, root: FakeCgroup) -> None:
        world = World(core, root, SupervisorConfig())
        for at, energy_j in enumerate((2.5, 4.0)):
            world.supervision.step(world.record, step(at, energy_j=energy_j))
        world.supervision.step(world.record, step(1, energy_j=4.0))  # the same again
        assert (world.record.steps, world.record.energy_j) == (2, 6.5)
        world.supervision.step(world.record, step(2))
        assert (world.record.steps, world.record.energy_j) == (3, None)
        noted = [event for event in world.events if event["kind"] == "step"]
        assert [event.get("energy_j") for event in noted] == [2.5, 4.0, None]

    on_a_core(check)


# --- which models a daemon takes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    data = write_runs(tmp_path_factory.mktemp("r") / "r.jsonl", made_up_runs(120))
    options = TrainingOptions(folds=4, candidates=FULL_CANDIDATES[4:5])
    return train(read_runs([data]), feature_set("full"), options, "made up")


def test_enforce_refuses_what_is_not_certified_or_for_observe_only(
    model: Predictor, tmp_path: Path
) -> None:
    path = tmp_path / "m.json"
    unsure = model.calibration.model_copy(update={"certified": False, "reason": "too few"})
    for changed in ({"calibration": unsure}, {"observe_only": True}):
        save(model.model_copy(update=changed), path)
        assert load_predictor(SupervisorConfig(model=str(path))) is not None
        with pytest.raises(ConfigError) as refused:
            load_predictor(SupervisorConfig(model=str(path), mode=SupervisionMode.ENFORCE))
        assert (refused.value.field, refused.value.exit_code) == ("supervisor.mode", 78)


def test_a_model_that_cannot_be_read_is_a_wrong_configuration(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x80\x04pickle")
    for name in ("m", "absent"):
        with pytest.raises(ConfigError) as refused:
            load_predictor(SupervisorConfig(model=str(tmp_path / name)))
        assert refused.value.field == "supervisor.model"
    assert load_predictor(SupervisorConfig()) is None


# --- through the socket


class Supervised:
    """A server on real sockets whose step.report is judged by a model; this test is agent."""

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        self.server = RunningServer(folder)
        self.server.become(Location("s", "agent"))
        self.supervision, self.record = self.server.run(self._make(predictor))
        self.server.handler.behaviour["step.report"] = lambda context: self.supervision.step(
            self.record, context.params
        ).model_dump()

    @staticmethod
    async def _make(predictor: Predictor) -> tuple[Supervision, SessionRecord]:
        core = Core(4096 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        told = SupervisorConfig(mode=SupervisionMode.ADVISE, limits=RuleLimits(stuck=False))
        record = a_session(core, FakeCgroup.delegated(FakeKernel()), "s")
        return Supervision(core, told, predictor), record

    def anew(self) -> None:
        self.server.call(self.supervision._watched.clear)


@pytest.fixture
def supervised(tmp_path: Path, model: Predictor) -> Iterator[Supervised]:
    made = Supervised(tmp_path, model)
    yield made
    made.server.stop()


def test_through_the_socket_scores_are_bit_equal(
    supervised: Supervised, model: Predictor, tmp_path: Path
) -> None:
    runs = read_runs([write_runs(tmp_path / "r.jsonl", made_up_runs(30, seed=4))])
    with RawClient(supervised.server.agent_path) as client:
        for run in runs:
            supervised.anew()
            for report, score in zip(run.steps, model.scores(run.steps), strict=True):
                params = report.model_dump(mode="json", exclude_none=True)
                assert client.request("step.report", params)["result"]["score"] == score


def test_what_is_refused_leaves_the_session_unharmed(supervised: Supervised) -> None:
    good = step(0).model_dump(mode="json", exclude_none=True)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"logprobs": [-1.0] * 9}, "logprobs"),
        ({"logprobs": [0.5, -1.0, -1.0]}, "logprobs.0"),
        ({"step": -1}, "step"),
        ({"tokens": ["a"]}, "tokens"),
        ({"prompt_tokens": 1.5}, "prompt_tokens"),
        ({"prompt_tokens": 10**400}, "prompt_tokens"),
        ({"energy_j": 1e300}, "energy_j"),
    ]
    with RawClient(supervised.server.agent_path) as client:
        for told, field in bad:
            problem = client.request("step.report", {**good, **told})["error"]["data"]
            assert (problem["kind"], problem["field"]) == ("invalid_params", field)
        client.send(
            b'{"jsonrpc":"2.0","id":1,"method":"step.report","params":{"step":0,'
            b'"prompt_tokens":1,"completion_tokens":1,"logprobs":[NaN]}}\n'
        )
        assert "error" in client.read()
        assert client.request("step.report", good)["result"]["advice"] == "continue"
        late = client.request("step.report", {**good, "step": 5})["error"]["data"]
        assert (late["field"], late["remedy"]) == (
            "step", "steps come in order, each once: the next one is 1",
        )  # fmt: skip
        assert client.request("step.report", {**good, "step": 1})["result"]["score"] is not None


def test_a_step_over_the_message_limit_says_what_to_send(supervised: Supervised) -> None:
    huge = step(0, completion_tokens=120_000).model_dump(mode="json", exclude_none=True)
    huge["logprobs"] = [-0.123456789] * 120_000
    with RawClient(supervised.server.agent_path) as client:
        with contextlib.suppress(BrokenPipeError):
            client.send(line("step.report", huge))
        answer = client.read()
        assert answer["error"]["data"]["kind"] == "message_too_large"


def test_a_step_takes_less_than_a_millisecond(supervised: Supervised) -> None:
    took = []
    for at in range(1_000):
        report = step(
            at, completion_tokens=100, logprobs=[-0.01 * (n % 7) for n in range(100)],
            text=" ".join(f"word{at + n}" for n in range(60)),
        )  # fmt: skip
        began = time.thread_time()
        supervised.supervision.step(supervised.record, report)
        took.append(time.thread_time() - began)
    assert sorted(took)[990] < 0.001


def test_a_report_of_no_use_counts_for_nothing(supervised: Supervised) -> None:
    with pytest.raises(InvalidValueError):
        supervised.supervision.step(supervised.record, step(0, logprob_summary={"x": 1.0}))
    assert supervised.record.steps == 0
