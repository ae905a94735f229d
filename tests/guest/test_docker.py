# SPDX-License-Identifier: Apache-2.0
"""Containers of a real Docker engine as sessions: attached, adopted, restarted, given back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_engine import SHIM, Container, DockerEngine
from forked import Ended, agentcgroup
from harness import PATIENCE_S, PrivateDaemon, read_value, until

from agentcgroup.errors import InvalidValueError, RemoteError

pytestmark = [pytest.mark.guest, pytest.mark.agents, pytest.mark.long]

MIB = 1 << 20
OWN_FILES = ("memory.max", "memory.high", "pids.max", "cpu.max", "cpu.weight",
             "cgroup.subtree_control", "cgroup.max.descendants")  # fmt: skip
SOCKET_DIRECTORY = "/run/agentcgroup/agent"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with DockerEngine("cgroupfs") as made:
        yield made


@pytest.fixture(scope="module")
def daemon(engine: DockerEngine) -> Iterator[PrivateDaemon]:
    settings = {"host": engine.host, "adopt": "agentcgroup.adopt=yes"}
    with PrivateDaemon(docker=settings) as made:
        yield made.start()


@pytest.fixture(autouse=True)
def nothing_is_left(engine: DockerEngine, daemon: PrivateDaemon) -> Iterator[None]:
    yield
    listed = engine.docker("ps", "-aq").split()
    if listed:
        engine.docker("rm", "-f", *listed)
    until(lambda: daemon.client.sessions() == [], "sessions end with their containers")
    until(
        lambda: not [name for name in os.listxattr(daemon.root) if ".container." in name],
        "removed containers are forgotten", daemon.log_text,
    )  # fmt: skip


def with_socket(daemon: PrivateDaemon) -> tuple[str, ...]:
    """The documented mount."""
    return ("-v", f"{daemon.socket.parent}:{SOCKET_DIRECTORY}:ro")


def on(daemon: PrivateDaemon, engine: DockerEngine, *arguments: str) -> Ended:
    return agentcgroup(*arguments, AGENTCGROUP_SOCKET=str(daemon.socket), DOCKER_HOST=engine.host)


def attach(daemon: PrivateDaemon, engine: DockerEngine, *arguments: str) -> Any:
    shown = on(daemon, engine, "attach", "docker", *arguments, "--json")
    assert shown.status == 0, shown.stderr + daemon.log_text()
    return json.loads(shown.stdout)


def state(box: Container) -> dict[str, Any]:
    own = {file: read_value(box.cgroup, file) for file in OWN_FILES}
    rooms = sorted(p.name for p in box.cgroup.iterdir() if p.is_dir())
    return {**own, "rooms": rooms, "procs": len(read_value(box.cgroup, "cgroup.procs").split())}


def adopted(daemon: PrivateDaemon, name: str) -> Any:
    def found() -> Any:
        return next((s for s in daemon.client.sessions() if s.name == name), None)

    return until(found, f"{name} is a session", daemon.log_text)


def test_attached_used_and_given_back(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    box = engine.run("box", "--memory", "300m", *with_socket(daemon))
    before = state(box)
    info = attach(daemon, engine, "box", "--priority", "high")["session"]
    assert (info["name"], info["container"], info["memory_bytes"]) == ("box", box.id, 300 * MIB)
    assert (info["kind"], info["containment"]) == ("inside", "enforced"), info
    assert info["agent_pids"] == [box.inspect()["State"]["Pid"]]
    assert state(box)["rooms"] == ["agent", "tools"]
    assert read_value(box.cgroup, "memory.max") == str(300 * MIB)
    # A shim in the container is who the container's cgroup says, whatever its uid.
    for user in ("root", "agent"):
        told = box.exec(SHIM, "--label", user, "--", "cat", "/proc/self/cgroup",
                        options=("-u", user))  # fmt: skip
        assert told.startswith("0::/tools/c"), told
    ended = {call.label: call for call in daemon.client.calls("box")}
    assert {label: call.state for label, call in ended.items()} == {
        "root": "ended", "agent": "ended",
    }  # fmt: skip
    # Who comes in begins a call by that, whatever it is.
    assert box.exec("cat", "/proc/self/cgroup").startswith("0::/tools/c")
    # What it is told of processes is what it calls them itself.
    box.exec(SHIM, "--background", "keep", "--json-outcome", "/tmp/told", "--",
             "sh", "-c", "sleep 600 & true")  # fmt: skip
    (pid,) = json.loads(box.exec("cat", "/tmp/told"))["background_pids"]
    assert box.exec("cat", f"/proc/{pid}/cmdline").startswith("sleep")
    box.exec("sh", "-c", f"kill -9 {pid}")
    until(lambda: not daemon.client.session("box").background_pids, "it is gone")
    # As without us.
    assert "MiB" in engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "box")
    assert "sleep" in engine.docker("top", "box")
    gone = on(daemon, engine, "detach", "box")
    assert gone.status == 0, gone.stderr
    assert state(box) == before
    box.exec("true")


def test_only_the_call_dies(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    """A hog in the container is killed at its cap, and told why; the agent lives."""
    box = engine.run("hogged", "--memory", "300m", *with_socket(daemon))
    attach(daemon, engine, "hogged")
    said = engine.refused(
        "exec", "hogged", SHIM, "--memory-max", "32M", "--", "dd", "if=/dev/zero", "of=/dev/null",
        "bs=100M", "count=1",
    )  # fmt: skip
    assert "memory" in said, said
    (call,) = daemon.client.calls("hogged")
    assert call.outcome is not None and call.outcome.reason == "oom_killed", call
    assert box.inspect()["State"]["Running"]
    assert on(daemon, engine, "detach", "hogged").status == 0


def test_restart_pause_stop_start(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    box = engine.run("box", *with_socket(daemon))
    first = attach(daemon, engine, "box", "--memory", "200M")["session"]
    engine.docker("pause", "box")
    until(lambda: daemon.client.session("box").paused, "the pause is seen", daemon.log_text)
    engine.docker("unpause", "box")
    until(lambda: not daemon.client.session("box").paused, "its end is seen", daemon.log_text)
    engine.docker("restart", "box")

    def again() -> bool:
        found = [s for s in daemon.client.sessions() if s.name == "box"]
        return bool(found) and found[0].created_epoch_s > first["created_epoch_s"]

    until(again, "split again after the restart", daemon.log_text)
    assert daemon.client.session("box").memory_bytes == 200 * MIB
    assert box.exec(SHIM, "--", "cat", "/proc/self/cgroup").startswith("0::/tools/c")
    engine.docker("stop", "box")
    until(lambda: daemon.client.sessions() == [], "it ends with the container", daemon.log_text)
    engine.docker("start", "box")
    assert adopted(daemon, "box").memory_bytes == 200 * MIB
    # By hand is by hand: no start brings it back.
    assert on(daemon, engine, "detach", "box").status == 0
    engine.docker("restart", "box")
    engine.run("later", "--label", "agentcgroup.adopt=yes")
    adopted(daemon, "later")  # its event came after the restart's
    assert [s.name for s in daemon.client.sessions()] == ["later"]


def test_a_call_outlives_the_daemon_and_the_mount_stays(
    engine: DockerEngine, daemon: PrivateDaemon
) -> None:
    box = engine.run("lasting", *with_socket(daemon))
    attach(daemon, engine, "lasting", "--memory", "200M")
    script = f"mkdir /tmp/on && {SHIM} -- sh -c 'while [ -d /tmp/on ]; do sleep 0.2; done; exit 7'"
    running = subprocess.Popen(
        ["docker", "exec", "-e", f"AGENTCGROUP_RECONNECT_S={PATIENCE_S:.0f}", "lasting",
         "sh", "-c", script], env={**os.environ, "DOCKER_HOST": engine.host},
    )  # fmt: skip
    call = until(lambda: daemon.client.session("lasting").calls, "it runs", daemon.log_text)[0]
    daemon.kill()
    daemon.start()
    assert daemon.client.session("lasting").calls == [call], daemon.log_text()
    assert daemon.client.session("lasting").container == box.id
    box.exec("sh", "-c", "busybox rmdir /tmp/on")
    assert running.wait(PATIENCE_S) == 7
    # Whoever came in began it: its end is seen, not told.
    outcome = until(lambda: daemon.client.call(call).outcome, "it has ended", daemon.log_text)
    assert outcome.exit_code == 7
    assert box.exec(SHIM, "--", "echo", "still") == "still"
    assert on(daemon, engine, "detach", "lasting").status == 0


def test_labels_adopt_at_start(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    labels = {"adopt": "yes", "priority": "high", "memory": "150M", "pids_max": "many",
              "memory_reserve": "100M"}  # fmt: skip
    options = [f"--label=agentcgroup.{key}={value}" for key, value in labels.items()]
    engine.run("labelled", *options)
    engine.run("plain")
    info = adopted(daemon, "labelled")
    assert (info.priority, info.memory_bytes) == ("high", 150 * MIB)
    # More than half of the budget can't be reserved: that is known only now.
    told = [line for line in daemon.log_text().splitlines() if "label ignored" in line]
    assert len(told) == 2 and all("container labelled" in line for line in told), told
    assert "agentcgroup.pids_max=many" in told[0]
    assert "agentcgroup.memory_reserve=100M" in told[1]
    assert [s.name for s in daemon.client.sessions()] == ["labelled"]
    # Several at once, and what is a session already is no failure.
    done = on(daemon, engine, "attach", "docker", "--all", "--json")
    assert done.status == 0, done.stderr
    assert [s["name"] for s in json.loads(done.stdout)["sessions"]] == ["plain"]
    done = on(daemon, engine, "attach", "docker", "--label", "agentcgroup.adopt")
    assert done.status == 0 and "already" in done.stderr


def test_an_agent_outside_works_by_exec(
    engine: DockerEngine, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    box = engine.run("box", *with_socket(daemon))
    other = subprocess.Popen(["sleep", "600"])
    try:
        info = attach(daemon, engine, "box", "--kind", "outside", "--agent-pid", str(os.getpid()),
                      "--memory", "200M")["session"]  # fmt: skip
        assert info["kind"] == "outside" and info["memory_reserve_bytes"] == 0
        assert info["containment"] == "advisory" and "root" in info["containment_reason"]
        # The agent's own process is known on the host; what it sends into the container, there.
        here = subprocess.run(
            ["agentcgroup-run", "--label", "host", "--", "cat", "/proc/self/cgroup"],
            env={**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert f"/{box.id}/tools/c" in here.stdout, here.stderr
        assert box.exec(SHIM, "--", "cat", "/proc/self/cgroup").startswith("0::/tools/c")
        # Its agent may be another later.
        again = attach(daemon, engine, "box", "--kind", "outside", "--agent-pid", str(other.pid))
        assert again["session"]["name"] == "box"
        assert on(daemon, engine, "detach", "box").status == 0
    finally:
        other.kill()
        other.wait()


def test_what_cannot_be_attached(engine: DockerEngine, daemon: PrivateDaemon) -> None:
    engine.run("box")
    engine.run("stopped", command=("true",))
    until(lambda: engine.docker("ps", "-q").count("\n") == 0, "only one runs")
    for name, kind, words in (
        ("nobody", "invalid_params", "no such container"),
        ("stopped", "target_refused", "does not run"),
    ):
        with pytest.raises(RemoteError) as caught:
            daemon.client.adopt(container=name)
        assert caught.value.kind == kind and words in str(caught.value) and caught.value.remedy
    for fields in ({"memory": "900G"}, {"memory": "1M"}):
        with pytest.raises(RemoteError) as caught:
            daemon.client.adopt(container="box", **fields)
        assert caught.value.field == "memory"
    with pytest.raises(InvalidValueError):
        daemon.client.adopt(container="box", priority="urgent")
    assert daemon.client.sessions() == []
    done = on(daemon, engine, "attach", "docker")
    assert done.status == 2 and "--all" in done.stderr


def test_without_an_engine(daemon: PrivateDaemon) -> None:
    with PrivateDaemon(docker={"host": "unix:///run/no-engine.sock", "adopt": "x"}) as other:
        other.start()
        with pytest.raises(RemoteError) as caught:
            other.client.adopt(container="box")
        assert caught.value.kind == "not_supported" and "no-engine" in str(caught.value)
        until(lambda: "containers are not followed" in other.log_text(), "it says so once")
