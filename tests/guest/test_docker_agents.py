# SPDX-License-Identifier: Apache-2.0
"""Six agents at once, in containers or working into them, adopted as they run or as they start.

Each is a mini-swe-agent with a scripted model that meets a 2 GB hog, a fork bomb, a server that
hangs and a pytest. Inside, it says what its calls need and reads why they died. Outside, it knows
nothing of us: each `docker exec` is a call, labels say what it may, and the outcomes say why.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_engine import DEBIAN, IMAGE, DockerEngine
from harness import PrivateDaemon, until

pytestmark = [pytest.mark.guest, pytest.mark.agents, pytest.mark.campaign]

SCRIPT = Path(__file__).with_name("scripted_agent.py")
SOCKET_DIRECTORY = "/run/agentcgroup/agent"
AGENTS_END_WITHIN_S = 1800
LABELS = ("--label", "agentcgroup.adopt=yes", "--memory", "400m")
# What the comments of the script say to who reads them.
OUTSIDE = ("--label", "agentcgroup.call.timeout_s=180", "--label", "agentcgroup.call.pids_max=50")
START = f'exec {sys.executable} {SCRIPT} "$1" >"$1/told" 2>"$1/errors"'
QUIET = {"MSWEA_SILENT_STARTUP": "1", "WAIT_FOR": "go"}


class Agent(ABC):
    def __init__(self, engine: DockerEngine, daemon: PrivateDaemon, folder: Path) -> None:
        self.engine = engine
        self.daemon = daemon
        self.folder = folder
        self.name = folder.name
        folder.mkdir()

    @abstractmethod
    def has_ended(self) -> bool: ...

    @abstractmethod
    def status(self) -> int: ...

    @abstractmethod
    def check(self, told: Any) -> None:
        """What its model read."""

    def told(self) -> Any:
        """What the agent printed, which went well."""
        assert self.status() == 0, (self.name, self.status(), (self.folder / "errors").read_text())
        return json.loads((self.folder / "told").read_text().splitlines()[-1])

    def close(self) -> None:  # noqa: B027  (what runs in a container ends with it)
        """End what is not the container's."""


class Inside(Agent):
    """The agent is what the container runs."""

    def __init__(self, engine: DockerEngine, daemon: PrivateDaemon, folder: Path) -> None:
        super().__init__(engine, daemon, folder)
        env = {**QUIET, "MSWEA_GLOBAL_CONFIG_DIR": f"{folder}/config", "HOME": str(folder),
               "PATH": os.environ["PATH"]}  # fmt: skip
        options = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        self.box = engine.run_debian(
            self.name, *LABELS, *options, "-v", f"{daemon.socket.parent}:{SOCKET_DIRECTORY}:ro",
            "-v", f"{folder}:{folder}", command=("sh", "-c", START, SCRIPT.name, str(folder)),
        )  # fmt: skip

    def has_ended(self) -> bool:
        return not self.box.inspect()["State"]["Running"]

    def status(self) -> int:
        return int(self.box.inspect()["State"]["ExitCode"])

    def check(self, told: Any) -> None:
        hog, bomb, server, started, tests, again = told["read"]
        assert "<returncode>137<" in hog and "Killed for memory" in hog, hog
        assert "its limit is 50 processes" in bomb or "timeout of 20 s" in bomb, bomb
        assert "<returncode>124<" in server and "timeout of 10 s" in server, server
        assert "<returncode>0<" in started and "started" in started, started
        assert "<returncode>0<" in tests and "1 passed" in tests, tests
        assert "<returncode>75<" in again and "same command was killed for memory" in again, again


class Outside(Agent):
    """The agent is a process of the host and starts the container itself."""

    def __init__(self, engine: DockerEngine, daemon: PrivateDaemon, folder: Path) -> None:
        super().__init__(engine, daemon, folder)
        env = {**os.environ, **QUIET, "MSWEA_GLOBAL_CONFIG_DIR": f"{folder}/config",
               "DOCKER_HOST": engine.host}  # fmt: skip
        image = [IMAGE, *LABELS, *OUTSIDE, *DEBIAN, "-e", f"PATH={os.environ['PATH']}",
                 "--label", f"agentcgroup.name={self.name}", "--network", "none",
                 "-v", f"{folder}:{folder}"]  # fmt: skip
        with (folder / "told").open("wb") as output, (folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), *image],
                env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            )  # fmt: skip

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def status(self) -> int:
        assert self.process.returncode is not None
        return self.process.returncode

    def check(self, told: Any) -> None:
        hog, bomb, server, started, tests, again = told["read"]
        assert "<returncode>137<" in hog and "<returncode>0<" not in bomb, (hog, bomb)
        assert "<returncode>0<" not in server, server
        assert "<returncode>0<" in started and "started" in started, started
        assert "<returncode>0<" in tests and "1 passed" in tests, tests
        assert "<returncode>0<" not in again, again

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with DockerEngine("cgroupfs") as made:
        yield made


@pytest.fixture
def daemon(engine: DockerEngine) -> Iterator[PrivateDaemon]:
    settings = {"host": engine.host, "adopt": "agentcgroup.adopt=yes"}
    with PrivateDaemon(docker=settings) as made:
        yield made


def reasons(daemon: PrivateDaemon, session: str) -> list[tuple[str, str]]:
    """Of its ended calls, oldest first: why, and the command."""
    ended = [call.outcome for call in daemon.client.calls(session, limit=100) if call.outcome]
    ended.sort(key=lambda outcome: outcome.ended_epoch_s or 0.0)
    return [(str(outcome.reason), outcome.command or "") for outcome in ended]


def test_all_agents_survive_and_each_result_has_its_reason(
    engine: DockerEngine, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    daemon.socket.parent.mkdir(parents=True, exist_ok=True)
    agents: list[Agent] = []
    try:
        agents += [
            kind(engine, daemon, tmp_path / f"running{n}")
            for n, kind in enumerate((Inside, Outside, Inside))
        ]
        until(lambda: len(engine.docker("ps", "-q").split()) == 3, "three run", engine.log_text)
        daemon.start()
        until(lambda: len(daemon.client.sessions()) == 3, "three adopted", daemon.log_text)
        agents += [
            kind(engine, daemon, tmp_path / f"started{n}")
            for n, kind in enumerate((Outside, Inside, Outside))
        ]
        until(lambda: len(daemon.client.sessions()) == 6, "six adopted", daemon.log_text)
        for agent in agents:
            (agent.folder / "go").touch()
        until(
            lambda: all(agent.has_ended() for agent in agents), "all end", daemon.log_text,
            timeout_s=AGENTS_END_WITHIN_S, interval_s=2.0,
        )  # fmt: skip
        for agent in agents:
            told, why = agent.told(), reasons(daemon, agent.name)
            print(agent.name, [reason for reason, _ in why])
            assert told["result"] == {"exit_status": "Submitted", "submission": "kept\n"}, told
            agent.check(told)
            check_reasons(why)
    finally:
        for agent in agents:
            agent.close()
        # mini-swe-agent removes what it started by itself, at the same time.
        until(lambda: not remove_all(engine), "containers are gone", engine.log_text)
    until(lambda: not daemon.client.sessions(), "sessions end with them", daemon.log_text)


def remove_all(engine: DockerEngine) -> list[str]:
    listed = engine.docker("ps", "-aq").split()
    for name in listed:
        with contextlib.suppress(AssertionError):
            engine.docker("rm", "-f", name)
    return listed


def check_reasons(why: list[tuple[str, str]]) -> None:
    def of(word: str) -> list[str]:
        return [reason for reason, command in why if word in command]

    assert "oom_killed" in of("bytearray"), why
    assert of("bomb.py") and set(of("bomb.py")) <= {"timed_out", "failed"}, why
    assert of("http.server") == ["timed_out"], why
    assert set(of("pytest -q")) == {"completed"}, why
    assert "refused" in [reason for reason, _ in why], why
    assert not {"killed_by_policy", "lost"} & {reason for reason, _ in why}, why
