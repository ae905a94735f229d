# SPDX-License-Identifier: Apache-2.0
"""Unmodified containers: no wrapper, no SDK, and every command has its leaf all the same. And an
agent in one that wants out of its limits.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import SHIM, DockerEngine
from harness import PATIENCE_S, PrivateDaemon, until

pytestmark = [pytest.mark.guest, pytest.mark.agents, pytest.mark.long]

MIB = 1 << 20
INSIDE, BY_EXEC = 450, 50
# The agent: shells of several kinds, and programs without any, one after another. By their paths,
# for busybox executes nothing when it is asked for one of its own applets by name.
AGENT = f"""
n=0
while [ $n -lt {INSIDE} ]; do
  case $((n % 5)) in
    0) /bin/sh -c 'read place </proc/self/cgroup; echo $place' ;;
    1) /bin/sh -c 'x=1; read place </proc/self/cgroup; echo $place' ;;
    2) /bin/busybox sh -c 'read place </proc/self/cgroup; echo $place' ;;
    3) /bin/cat /proc/self/cgroup ;;
    4) /bin/head -n 1 /proc/self/cgroup ;;
  esac
  n=$((n + 1))
done >/out/places
echo done >/out/done
while :; do sleep 1000; done
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with DockerEngine("cgroupfs") as made:
        yield made


@pytest.fixture
def daemon(engine: DockerEngine) -> Iterator[PrivateDaemon]:
    settings = {"host": engine.host, "adopt": "agentcgroup.adopt=yes"}
    with PrivateDaemon(docker=settings) as made:
        yield made.start()
        listed = engine.docker("ps", "-aq").split()
        if listed:
            engine.docker("rm", "-f", *listed)


def test_five_hundred_commands_of_an_unmodified_image(
    engine: DockerEngine, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    (tmp_path / "agent.sh").write_text(
        "while [ ! -e /out/go ]; do sleep 0.1; done\n" + AGENT, encoding="utf-8"
    )
    box = engine.run(
        "box", "--label", "agentcgroup.adopt=yes", "--memory", "300m",
        "--label", "agentcgroup.boundary_programs=sh,busybox,cat",
        "--label", "agentcgroup.boundary_ignore=sleep",
        "-v", f"{tmp_path}:/out", command=("sh", "/out/agent.sh"),
    )  # fmt: skip
    until(daemon.client.sessions, "it is a session", daemon.log_text)
    (tmp_path / "go").touch()
    by_exec = [box.exec("cat", "/proc/self/cgroup") for _ in range(BY_EXEC)]
    until((tmp_path / "done").exists, "it is done", daemon.log_text, timeout_s=900)
    inside = (tmp_path / "places").read_text().splitlines()
    assert len(inside) == INSIDE
    found = [place for place in inside + by_exec if place.startswith("0::/tools/c")]
    counts = daemon.client.status()["boundary"]["counts"]
    print(len(found), counts)
    assert len(found) >= 0.99 * (INSIDE + BY_EXEC), set(inside + by_exec) - set(found)
    assert len(set(found)) == len(found)
    assert counts["continued_early"] == counts["not_told"] == counts["unplaced"] == 0


def test_restarts_of_the_container_and_of_the_daemon(
    engine: DockerEngine, daemon: PrivateDaemon
) -> None:
    box = engine.run("box", "--label", "agentcgroup.adopt=yes")
    until(daemon.client.sessions, "it is a session", daemon.log_text)
    where = ("cat", "/proc/self/cgroup")
    assert box.exec(*where).startswith("0::/tools/c")
    first = daemon.client.session("box").created_epoch_s
    engine.docker("restart", "box")
    until(
        lambda: [s for s in daemon.client.sessions() if s.created_epoch_s > first],
        "split again", daemon.log_text,
    )  # fmt: skip
    assert box.exec(*where).startswith("0::/tools/c")
    daemon.kill()
    daemon.start()
    assert box.exec(*where).startswith("0::/tools/c")
    # One that lasts is seen through a restart, and its end with its exit status.
    with subprocess.Popen(
        ["docker", "exec", "box", "sh", "-c", "while [ ! -e /tmp/on ]; do sleep 0.2; done; exit 7"],
        env={**os.environ, "DOCKER_HOST": engine.host},
    ) as lasting:  # fmt: skip
        until(lambda: daemon.client.session("box").calls, "it runs", daemon.log_text)
        (call,) = daemon.client.session("box").calls
        daemon.kill()
        daemon.start()
        box.exec("mkdir", "/tmp/on")
        assert lasting.wait(PATIENCE_S) == 7
    outcome = until(lambda: daemon.client.call(call).outcome, "it has ended", daemon.log_text)
    assert outcome.exit_code == 7


def test_an_agent_in_a_container_does_not_get_out(
    engine: DockerEngine, daemon: PrivateDaemon
) -> None:
    """It writes to cgroup files, names calls of others, floods the socket; others live on."""
    socket = ("-v", f"{daemon.socket.parent}:/run/agentcgroup/agent:ro")
    labels = ("--label", "agentcgroup.adopt=yes", "--memory", "400m")
    engine.run("neighbour", *socket, *labels)
    # As the agent itself, not as a call of it.
    # A name that leads elsewhere is no name: the container's own counts.
    bad = engine.run_debian(
        "bad", *socket, *labels, "--label", "agentcgroup.boundary=declared",
        "--label", "agentcgroup.name=../neighbour",
    )  # fmt: skip
    until(lambda: len(daemon.client.sessions()) == 2, "both are sessions", daemon.log_text)
    others = subprocess.Popen(
        ["docker", "exec", "neighbour", "sh", "-c", "sleep 1000"],
        env={**os.environ, "DOCKER_HOST": engine.host},
    )
    try:
        until(lambda: daemon.client.session("neighbour").calls, "it runs", daemon.log_text)
        (victim,) = daemon.client.session("neighbour").calls
        bad.exec("ln", "-s", "/sys/fs/cgroup", "/tmp/link")
        for label in ("/tmp/link/agent", "../../neighbour/agent", "../agent"):
            placed = bad.exec(SHIM, "--label", label, "--", "cat", "/proc/self/cgroup")
            assert placed.startswith("0::/tools/c"), placed
            outcome = daemon.client.calls("bad", limit=1)[0].outcome
            assert outcome is not None and outcome.label == label
        script = Path(__file__).with_name("escaping_agent.py")
        told = json.loads(bad.exec("python3", "-c", script.read_text(), victim))
        print(told)
        assert set(told["files"].values()) <= {"EROFS", "EACCES", "ENOENT", "EPERM"}, told
        assert told["place_before"] == told["place_after"]
        for method, kind in told["victim"].items():
            assert kind in ("not_found", "not_permitted", "invalid_params"), (method, kind)
        assert told["huge"] in ("message_too_large", "closed")
        assert told["opened"] < 10_000 and told["refused"] in ("too_many", "closed"), told
        # The others' call runs, and the daemon has time for them.
        assert daemon.client.session("neighbour").calls == [victim]
        assert engine.docker("exec", "neighbour", "cat", "/proc/self/cgroup").startswith("0::/t")
    finally:
        others.kill()
        others.wait()
