# SPDX-License-Identifier: Apache-2.0
"""What happened while no daemon was there is told rightly by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PrivateDaemon, alive, enter_cgroup, lasting_state, read_value, until
from nursery import Nursery

pytestmark = [pytest.mark.guest, pytest.mark.long]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@pytest.fixture
def daemon(nursery: Nursery) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(nursery, daemon={"memory_layers": "files"}) as made:
        made.start()
        made.client.create_session("s", memory="512M")
        yield made


def fifo(daemon: PrivateDaemon, name: str) -> Path:
    path = daemon.base / name
    os.mkfifo(path)
    return path


def test_ended_while_away(daemon: PrivateDaemon) -> None:
    """The shim keeps the exit status until somebody is there to hear it."""
    go = fifo(daemon, "go")
    shim = daemon.shim("sh", "-c", f"read _ < {go}; exit 5", session="s")
    call = daemon.call_of(shim)
    before = lasting_state(daemon.leaf(call))
    daemon.kill()
    assert lasting_state(daemon.leaf(call)) == before
    go.write_text("\n")
    until(lambda: read_value(daemon.leaf(call), "cgroup.procs") == "", "the command ended")
    daemon.start()
    assert shim.wait() == 5
    assert (shim.outcome["reason"], shim.outcome["call"]) == ("failed", call)
    assert daemon.orphans() == []


def test_oom_kill_while_away(daemon: PrivateDaemon) -> None:
    go = fifo(daemon, "go")
    script = f"read _ < {go}; head -c 200M /dev/zero | tail -n 1"
    shim = daemon.shim("sh", "-c", script, session="s", options=["--memory-max", "64M"])
    call = daemon.call_of(shim)
    daemon.kill()
    go.write_text("\n")
    until(lambda: read_value(daemon.leaf(call), "cgroup.procs") == "", "the kernel killed it")
    daemon.start()
    assert shim.wait() == 137
    found = shim.outcome
    assert found, shim.stderr + daemon.log_text()
    assert (found["reason"], found["level"], found["call"]) == ("oom_killed", "call", call)
    assert found["peak_memory_bytes"] > 60 << 20
    assert found["memory_limit_bytes"] == 64 << 20
    assert "64.0 MiB" in found["message"] or "64 MiB" in found["message"]


def test_reason_of_a_kill_survives(daemon: PrivateDaemon) -> None:
    """SIGTERM for a timeout was sent, then the daemon died: it stays a timeout."""
    mark = daemon.base / "terminated"
    script = f"trap 'touch {mark}; sleep 2; exit 9' TERM; while :; do sleep 0.1; done"
    shim = daemon.shim("sh", "-c", script, session="s", options=["--timeout", "1"])
    until(mark.exists, "it was asked to end", daemon.log_text)
    daemon.kill()
    daemon.start()
    assert shim.wait() == 124, shim.stderr + daemon.log_text()
    assert shim.outcome["reason"] == "timed_out"
    assert "timeout of 1 s" in shim.outcome["message"]


def test_lost_only_when_the_shim_died_too(daemon: PrivateDaemon) -> None:
    doomed = daemon.shim("sleep", "1000", session="s", options=["--label", "doomed"])
    kept = daemon.shim("sh", "-c", "sleep 3; exit 6", session="s")
    call, other = daemon.call_of(doomed), daemon.call_of(kept)
    pid = doomed.child_pid
    assert pid is not None
    daemon.kill()
    doomed.kill()
    assert alive(pid), "the command outlives both"
    daemon.start()
    outcome = daemon.client.outcome(call)
    assert outcome is not None and outcome.reason == "lost"
    assert not alive(pid)
    assert kept.wait() == 6
    assert (kept.outcome["reason"], kept.outcome["call"]) == ("failed", other)
    assert daemon.orphans() == []


def test_owner_dies_after_recovery(daemon: PrivateDaemon) -> None:
    shim = daemon.shim("sleep", "1000", session="s")
    call, pid = daemon.call_of(shim), shim.child_pid
    assert pid is not None
    daemon.kill()
    daemon.start()
    assert daemon.client.call(call).state == "running"
    shim.kill()
    until(lambda: daemon.client.outcome(call), "it ended with its shim", daemon.log_text)
    assert not alive(pid) and daemon.orphans() == []


def test_background_survives_and_ends_its_session(daemon: PrivateDaemon) -> None:
    """A session of one call lives as long as what the call left in the background."""
    script = "sleep 1000 >/dev/null 2>&1 & echo $!; exit 0"
    shim = daemon.shim("sh", "-c", script, options=["--background", "keep"])
    assert shim.wait() == 0
    pid = int(shim.stdout)
    assert shim.outcome["background_pids"] == [pid]
    name = shim.outcome["session"]
    daemon.kill()
    daemon.start()
    assert daemon.client.session(name).background_pids == [pid]
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: name not in [s.name for s in daemon.client.sessions()], "its session ended")
    assert daemon.orphans() == []


def test_agent_ended_while_away(daemon: PrivateDaemon) -> None:
    """An ephemeral session is its agent's: it ends although nobody saw the agent go."""
    agent = subprocess.Popen(["sleep", "1000"])
    fd = os.pidfd_open(agent.pid)
    daemon.client.create_session("mine", pidfd=fd, ephemeral=True, memory="64M")
    os.close(fd)
    daemon.kill()
    agent.kill()
    agent.wait()
    daemon.start()
    until(lambda: [s.name for s in daemon.client.sessions()] == ["s"], "the session ended")
    assert daemon.orphans() == []


def test_session_keeps_its_figures(daemon: PrivateDaemon) -> None:
    daemon.client.create_session(
        "k", memory="300M", cpu=1.5, pids_max=99, priority="low", labels={"team": "red"}
    )
    daemon.client.update_session("k", memory="320M")
    before = daemon.client.session("k")
    daemon.kill()
    daemon.start()
    assert daemon.client.session("k") == before


def test_one_daemon_a_tree_and_a_socket(daemon: PrivateDaemon) -> None:
    """A second one says so, with the exit status of a bad configuration, and touches nothing."""
    go = fifo(daemon, "go")
    shim = daemon.shim("sh", "-c", f"read _ < {go}; exit 2", session="s")
    leaf = daemon.leaf(daemon.call_of(shim))
    before = lasting_state(leaf)
    for changed, field in (("", "socket"), ('socket = "/run/acg-other/a.sock"\n', "root")):
        config = daemon.base / "second.toml"
        lines = (daemon.base / "config.toml").read_text().splitlines(keepends=True)
        kept = [line for line in lines if not (changed and line.startswith("socket"))]
        config.write_text("".join(kept).replace("[daemon]\n", "[daemon]\n" + changed))
        code = (
            "import sys; from agentcgroup.daemon.config import load_config;"
            "from agentcgroup.daemon.main import run; from agentcgroup.errors import ConfigError\n"
            "try: run(load_config(sys.argv[1]))\n"
            "except ConfigError as e: print(e); sys.exit(e.exit_code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 78, done.stdout + done.stderr
        assert done.stdout.startswith(field), done.stdout
        assert lasting_state(leaf) == before
    go.write_text("\n")
    assert shim.wait() == 2
    assert not Path("/run/acg-other/a.sock").exists()


def test_inside_agent_comes_back(daemon: PrivateDaemon, kernel_role: str) -> None:
    """The agents' socket, too: a shim in agent/ is known by its cgroup after a restart."""
    if kernel_role == "lts":  # no SO_PEERPIDFD: agents are refused there, see docs/protocol.md
        return
    holder = subprocess.Popen(
        ["sleep", "1000"],
        preexec_fn=lambda: enter_cgroup(daemon.root / "s" / "agent"),  # noqa: PLW1509
    )
    shim = daemon.shim("sh", "-c", "sleep 3; exit 8", session="s", inside=True)
    call = daemon.call_of(shim)
    daemon.kill()
    daemon.start()
    assert shim.wait() == 8
    assert shim.outcome["call"] == call
    assert alive(holder.pid) and daemon.client.session("s").agent_pids == [holder.pid]
    holder.kill()
    holder.wait()
