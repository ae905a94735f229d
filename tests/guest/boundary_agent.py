# SPDX-License-Identifier: Apache-2.0
"""An agent that declares nothing, in a session with the exec boundary, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import PrivateDaemon, enter_cgroup, until

__all__ = ["AGENT", "WHERE", "Agent", "agent_of", "boundary", "counts", "outcomes"]

# An agent: reads a list of command lines, runs each, answers with status and output.
AGENT = """
import json, subprocess, sys
for line in sys.stdin:
    answers = []
    for argv in json.loads(line):
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        answers.append([done.returncode, done.stdout])
    print(json.dumps(answers), flush=True)
"""
# A shell tells where it stands with its very first instructions, and starts nothing for it.
WHERE = "read place </proc/self/cgroup; echo $place"


class Agent:
    """A process in a session's agent/ that runs what it is told. It declares nothing."""

    def __init__(self, daemon: PrivateDaemon, session: str) -> None:
        cgroup = daemon.root / session / "agent"
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", AGENT], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, preexec_fn=lambda: enter_cgroup(cgroup),  # noqa: PLW1509
        )  # fmt: skip

    def asks(self, *commands: list[str]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(commands) + "\n")
        self.process.stdin.flush()

    def answers(self) -> list[tuple[int, str]]:
        assert self.process.stdout is not None
        return [(status, out) for status, out in json.loads(self.process.stdout.readline())]

    def run(self, *commands: list[str]) -> list[tuple[int, str]]:
        self.asks(*commands)
        return self.answers()

    def child(self) -> int:
        """The command that it waits for."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(until(lambda: Path(path).read_text().split(), "it has a child")[0])

    def close(self) -> None:
        self.process.kill()
        with self.process:  # waits and closes the pipes
            pass


@contextmanager
def agent_of(daemon: PrivateDaemon, session: str = "s", **spec: Any) -> Iterator[Agent]:
    """A session with the exec boundary and an agent in it."""
    daemon.client.create_session(session, **{"memory": "400M", "boundary": "exec", **spec})
    agent = Agent(daemon, session)
    try:
        yield agent
    finally:
        agent.close()


def boundary(daemon: PrivateDaemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.client.status()["boundary"]
    return found


def counts(daemon: PrivateDaemon) -> dict[str, int]:
    found: dict[str, int] = boundary(daemon)["counts"]
    return found


def outcomes(daemon: PrivateDaemon, session: str = "s", least: int = 1) -> list[Any]:
    """Of ended calls, the newest first; their ends are seen a moment after the agent does."""

    def ended() -> list[Any]:
        calls = daemon.client.calls(session, ended=True, limit=1000)
        found = [call.outcome for call in calls if call.outcome is not None]
        return found if len(found) >= least else []

    return until(ended, f"{least} calls have ended", daemon.log_text)
