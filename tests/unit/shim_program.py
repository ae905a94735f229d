# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the shim's tests: both builds of the program, and daemons for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shim_fake import BEGUN, BUILDS, ENDED, WAIT_S, FakeDaemon, built


@pytest.fixture(scope="session", params=BUILDS)
def program(request: pytest.FixtureRequest) -> Path:
    return built("agentcgroup-run", request.param)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., FakeDaemon]]:
    """Starts fake daemons; `at` is the socket's name below the test's directory."""
    daemons: list[FakeDaemon] = []

    def start(at: str = "agent/agent.sock", noise: bytes = b"", **answers: Any) -> FakeDaemon:
        path = tmp_path / at
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        by_method = {"tool.begin": BEGUN, "tool.end": ENDED}
        by_method |= {name.replace("_", "."): answer for name, answer in answers.items()}
        daemons.append(FakeDaemon(path, by_method, noise))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def spawn(program: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program with the test's socket; what is left over is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, env: dict[str, str] | None = None, **more: Any) -> Any:
        environment = {
            **os.environ,
            "AGENTCGROUP_SOCKET": str(tmp_path / "agent" / "agent.sock"),
            "AGENTCGROUP_RECONNECT_S": "5",
            "ASAN_OPTIONS": "exitcode=99:detect_leaks=0",
            **(env or {}),
        }
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
        process = subprocess.Popen([program, *arguments], env=environment, **more)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run(spawn: Callable[..., subprocess.Popen[str]]) -> Callable[..., Any]:
    """(exit status, stdout, stderr) of a whole run."""

    def whole(*arguments: str, **more: Any) -> tuple[int, str, str]:
        process = spawn(*arguments, **more)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    return whole
