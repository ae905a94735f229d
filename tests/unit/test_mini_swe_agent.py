# SPDX-License-Identifier: Apache-2.0
"""mini-swe-agent's own loop, with a scripted model, on our environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon

from agentcgroup.errors import InvalidValueError
from agentcgroup.integrations.mini_swe_agent import ToolCallEnvironment
from agentcgroup.protocol.errors import Kind

HERE = "agentcgroup.integrations.mini_swe_agent.ToolCallEnvironment"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo done"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("MSWEA_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MSWEA_SILENT_STARTUP", "1")
    for name in ("AGENTCGROUP_INTENT", "AGENT_RESOURCE_HINT"):
        monkeypatch.delenv(name, raising=False)
    with FakeDaemon(tmp_path) as running:
        monkeypatch.setenv("AGENTCGROUP_SOCKET", running.agent_path)
        yield running


def agent_on(env: Any, *commands: str) -> Any:
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.models.test_models import DeterministicModel, make_output

    outputs = [make_output(f"step {n}", [{"command": c}]) for n, c in enumerate(commands)]
    return DefaultAgent(
        DeterministicModel(outputs=outputs), env, cost_limit=1000.0,
        system_template="You are {{system}}.", instance_template="{{task}} in {{cwd}}",
    )  # fmt: skip


def observations(agent: Any) -> list[str]:
    return [m["content"] for m in agent.messages if m["role"] == "user"][1:]


def test_a_whole_run(daemon: FakeDaemon, tmp_path: Path) -> None:
    from minisweagent.environments import get_environment

    env = get_environment({"environment_class": HERE, "cwd": str(tmp_path), "env": {"A": "b"}})
    daemon.outcomes["c-2"] = {
        "call": "c-2", "session": "s", "reason": "oom_killed",
        "message": "Killed for memory: less.",
    }  # fmt: skip
    agent = agent_on(env, "echo $A; pwd; exit 3", "printf half # agentcgroup: memory=64M", SUBMIT)
    result = agent.run("do it")
    assert (result["exit_status"], result["submission"]) == ("Submitted", "done\n")
    first, second = observations(agent)
    assert f"b\n{tmp_path}\n" in first and "<returncode>3<" in first
    assert "<returncode>137<" in second
    assert "half\nagentcgroup: Killed for memory: less.\n" in second
    begun = [params["intent"] for params in daemon.params("tool.begin")]
    assert [intent["timeout_s"] for intent in begun] == [30.0] * 3
    assert begun[0]["command"] == "bash -c 'echo $A; pwd; exit 3'"
    assert begun[1]["memory"] == 64 << 20 and begun[1]["background"] == "keep"
    assert daemon.methods().count("tool.end") == 3
    saved = agent.save(tmp_path / "run.json")
    assert saved["info"]["config"]["environment_type"] == HERE


def test_what_the_agent_declares_for_every_action(daemon: FakeDaemon) -> None:
    env = ToolCallEnvironment(session="s9", intent={"memory": "1G"}, timeout=5)
    assert env.execute({"command": "true"})["returncode"] == 0
    (sent,) = daemon.params("tool.begin")
    assert sent["session"] == "s9" and sent["intent"]["memory"] == 1 << 30
    assert sent["intent"]["timeout_s"] == 5.0
    env.execute({"command": "true # agentcgroup: memory=2G timeout=1m"}, timeout=7)
    intent = daemon.params("tool.begin")[1]["intent"]
    assert (intent["memory"], intent["timeout_s"]) == (2 << 30, 60.0)


def test_a_wrong_wish_is_told_and_the_action_runs(daemon: FakeDaemon) -> None:
    said = ToolCallEnvironment().execute({"command": "echo hi # agentcgroup: memory=2Q"})
    assert said["returncode"] == 0
    assert said["output"].startswith("agentcgroup: ignored what was declared: ")
    assert said["output"].endswith("\nhi\n") and "512M" in said["output"]


def test_a_refusal_is_an_observation(daemon: FakeDaemon) -> None:
    daemon.refuse("tool.begin", Kind.REFUSED, remedy="declare memory_max=1G")
    said = ToolCallEnvironment().execute({"command": "true"})
    assert said["returncode"] == 75 and "declare memory_max=1G" in said["output"]


def test_a_server_left_behind_does_not_hold_the_action(daemon: FakeDaemon, tmp_path: Path) -> None:
    began = time.monotonic()
    said = ToolCallEnvironment(cwd=str(tmp_path)).execute(
        {"command": "sleep 60 & echo $! > pid; echo up"}
    )
    assert said["output"] == "up\n" and time.monotonic() - began < 20
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_without_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "none.sock"))
    env = ToolCallEnvironment(timeout=0.5)
    said = env.execute({"command": "kill -TERM $$"})
    assert (said["returncode"], said["output"]) == (143, "")
    said = env.execute({"command": "echo begun; sleep 60"})
    assert said["returncode"] == -1 and "0.5 s" in said["exception_info"]
    said = env.execute({"command": "true"}, cwd="/nowhere")
    assert said["returncode"] == -1 and "nowhere" in said["exception_info"]
    said = ToolCallEnvironment(require=True).execute({"command": "true"})
    assert said["returncode"] == -1 and "none.sock" in said["exception_info"]


def test_unknown_settings_are_named() -> None:
    with pytest.raises(InvalidValueError) as wrong:
        ToolCallEnvironment(image="python:3.13")
    assert wrong.value.field == "image"


def test_an_agent_in_no_session_still_acts(daemon: FakeDaemon) -> None:
    daemon.refuse("tool.begin", Kind.NO_SESSION, remedy="start it by agentcgroup session run")
    said = ToolCallEnvironment().execute({"command": "echo hi; exit 3"})
    assert (said["returncode"], said["output"]) == (3, "hi\n")
    said = ToolCallEnvironment(require=True).execute({"command": "true"})
    assert said["returncode"] == -1 and "tool.begin" in said["exception_info"]
