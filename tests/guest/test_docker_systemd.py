# SPDX-License-Identifier: Apache-2.0
"""Containers under Docker's systemd cgroup driver: scopes that systemd made, divided by us."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from docker_engine import SHIM, Container, DockerEngine
from forked import Ended, agentcgroup
from harness import PrivateDaemon, read_value, until

pytestmark = [pytest.mark.guest, pytest.mark.systemd, pytest.mark.agents]

MIB = 1 << 20


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with DockerEngine("systemd") as made:
        yield made


@pytest.fixture(scope="module")
def daemon(engine: DockerEngine) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(docker={"host": engine.host, "adopt": "agentcgroup.adopt"}) as made:
        yield made.start()


def on(daemon: PrivateDaemon, engine: DockerEngine, *arguments: str) -> Ended:
    done = agentcgroup(*arguments, AGENTCGROUP_SOCKET=str(daemon.socket), DOCKER_HOST=engine.host)
    assert done.status == 0, done.stderr + daemon.log_text()
    return done


def state(box: Container) -> dict[str, Any]:
    files = ("memory.max", "pids.max", "cpu.max", "cpu.weight", "cgroup.subtree_control")
    rooms = sorted(p.name for p in box.cgroup.iterdir() if p.is_dir())
    return {"rooms": rooms, **{file: read_value(box.cgroup, file) for file in files}}


def call_in(box: Container) -> str:
    """Where a tool call's command stands, from the container's own cgroup on."""
    return box.exec(SHIM, "--", "cat", "/proc/self/cgroup")


def test_a_scope_is_divided_and_put_together(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    box = engine.run(
        "box", "--memory", "300m", "-v", f"{daemon.socket.parent}:/run/agentcgroup/agent:ro"
    )
    before = state(box)
    shown = on(daemon, engine, "attach", "docker", "box", "--priority", "low", "--json")
    info = json.loads(shown.stdout)["session"]
    assert info["cgroup"] == str(box.cgroup) and info["memory_bytes"] == 300 * MIB
    assert call_in(box).startswith("0::/tools/c")
    # systemd goes through its units again: the rooms stay, and so do their controllers.
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert state(box)["rooms"] == ["agent", "tools"]
    assert "memory" in read_value(box.cgroup, "cgroup.subtree_control").split()
    assert call_in(box).startswith("0::/tools/c")
    engine.docker("update", "--memory", "400m", "--memory-swap", "400m", "box")
    assert read_value(box.cgroup, "memory.max") == str(400 * MIB)
    until(
        lambda: daemon.client.session("box").memory_bytes == 400 * MIB,
        "the budget follows", daemon.log_text,
    )  # fmt: skip
    engine.docker("update", "--memory", "300m", "--memory-swap", "300m", "box")
    on(daemon, engine, "detach", "box")
    assert state(box) == before
    box.exec("true")
    box.remove()
    until(lambda: not box_scopes(), "the scope is gone")


def test_adopted_at_start_and_after_a_restart(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    box = engine.run(
        "adopted", "--label", "agentcgroup.adopt=", "--label", "agentcgroup.memory=200M",
        "-v", f"{daemon.socket.parent}:/run/agentcgroup/agent:ro",
    )  # fmt: skip

    def begun() -> float:
        found = [s for s in daemon.client.sessions() if s.name == "adopted"]
        return found[0].created_epoch_s if found else 0.0

    first = until(begun, "it is adopted", daemon.log_text)
    daemon.kill()
    daemon.start()
    assert begun() == first
    engine.docker("restart", "adopted")
    until(lambda: begun() > first, "it is divided again", daemon.log_text)
    assert call_in(box).startswith("0::/tools/c")
    assert daemon.client.session("adopted").memory_bytes == 200 * MIB
    box.remove()
    until(lambda: begun() == 0.0, "it ends with the container", daemon.log_text)
    until(lambda: not box_scopes(), "the scope is gone")
    until(
        lambda: not [name for name in os.listxattr(daemon.root) if ".container." in name],
        "the removed container is forgotten", daemon.log_text,
    )  # fmt: skip


def box_scopes() -> list[str]:
    command = ["systemctl", "list-units", "--plain", "--no-legend", "docker-*.scope"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return listed.stdout.split()
