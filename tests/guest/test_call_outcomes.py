# SPDX-License-Identifier: Apache-2.0
"""One tool call held, killed and explained: what goes wrong, who survives, what is told.

Each story ends with the agent, its session and the daemon alive, and says so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PrivateDaemon, Shim, alive, until

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

MIB = 1 << 20

# The biggest of three holds 60 MiB and sleeps; the one that triggers is another, smaller.
HOG = """
import subprocess, sys, time
code = "x = b'x' * (60 << 20); print(1, flush=True); import time; time.sleep(60)"
big = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
idle = subprocess.Popen(["sleep", "60"])
big.stdout.readline()
held = bytearray()
while True:
    held += b"y" * (1 << 20)
    time.sleep(0.02)
"""
FORK_BOMB = """
import os, time
made = 0
for _ in range(3000):
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
    except OSError:
        break
print("made", made, flush=True)
os._exit(3)
"""
STUBBORN = "trap '' TERM; while :; do sleep 1; done"
DAEMONIZE = """
(setsid sh -c 'echo $$ > {file}; exec sleep 300' >/dev/null 2>&1 &)
while [ ! -s {file} ]; do sleep 0.05; done
"""


class Host:
    """A started daemon with a session `s` and an agent in it that must live on."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.daemon = daemon
        daemon.start()
        daemon.client.create_session("s", memory="400M")
        self.agent = agent_of(daemon)

    def run(self, *command: str, **options: Any) -> Shim:
        shim = self.daemon.shim(*command, session="s", **options)
        shim.status = shim.wait(120)  # type: ignore[attr-defined]
        return shim

    def check_all_live_on(self) -> None:
        assert alive(self.agent.pid)
        (session,) = self.daemon.client.sessions()
        assert session.name == "s"
        assert session.calls == []
        after = self.run("echo", "still here")
        assert after.stdout == "still here\n"
        assert self.daemon.orphans() == []


def agent_of(daemon: PrivateDaemon) -> subprocess.Popen[bytes]:
    """A process in the session's agent/, standing for the agent."""
    agent = subprocess.Popen(["sleep", "3600"])
    (daemon.root / "s" / "agent" / "cgroup.procs").write_text(str(agent.pid))
    return agent


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """One daemon for all stories: what each leaves behind would show in the next."""
    with PrivateDaemon() as daemon:
        made = Host(daemon)
        try:
            yield made
        finally:
            made.agent.kill()
            made.agent.wait()


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    yield shared
    shared.check_all_live_on()


def test_memory_hog_is_killed_alone_and_explained(host: Host) -> None:
    options = ["--memory", "64M", "--memory-max", "96M"]
    shim = host.run(sys.executable, "-c", HOG, options=options)
    outcome = shim.outcome
    assert shim.status == 137
    assert outcome["reason"] == "oom_killed"
    assert outcome["level"] == "call"
    assert outcome["memory_limit_bytes"] == 96 * MIB
    assert 90 * MIB <= (outcome["peak_memory_bytes"] or 96 * MIB) <= 96 * MIB
    assert outcome["pids_peak"] is None or outcome["pids_peak"] >= 3
    biggest = outcome["biggest_process"]
    assert "60 << 20" in biggest["command"]
    assert biggest["rss_bytes"] >= 60 * MIB
    assert outcome["retry"]["worthwhile"] is True
    assert outcome["retry"]["intent"]["memory"] > 96 * MIB
    for words in ("96 MiB", "only this tool call was killed", "biggest process", "Try again"):
        assert words in outcome["message"]
    assert outcome["message"] in shim.stderr


def test_the_session_limit_is_named_when_it_hits(host: Host) -> None:
    shim = host.run(sys.executable, "-c", HOG)
    assert shim.status == 137
    assert shim.outcome["reason"] == "oom_killed"
    assert shim.outcome["level"] in ("call", "tools")
    assert "More memory is not available here" in shim.outcome["message"]


def test_timeout_is_124_with_figures(host: Host) -> None:
    shim = host.run("sleep", "60", options=["--timeout", "1"])
    assert shim.status == 124
    assert shim.outcome["reason"] == "timed_out"
    assert 1.0 <= shim.outcome["duration_s"] < 30
    assert "timeout of 1 s" in shim.stderr


def test_who_ignores_sigterm_is_killed_after_the_grace(host: Host) -> None:
    started = time.monotonic()
    shim = host.run("sh", "-c", STUBBORN, options=["--timeout", "1"])
    assert shim.status == 124
    assert shim.outcome["reason"] == "timed_out"
    assert time.monotonic() - started >= 6


def test_fork_bomb_is_held_at_its_limit(host: Host) -> None:
    shim = host.run(sys.executable, "-c", FORK_BOMB, options=["--pids-max", "64"])
    outcome = shim.outcome
    assert shim.status == 3
    assert outcome["reason"] == "failed"
    assert outcome["pids_limit_hits"] >= 1
    assert outcome["pids_peak"] is None or outcome["pids_peak"] == 64
    assert outcome["retry"]["intent"]["pids_max"] == 128
    assert "64 processes" in outcome["message"]


@pytest.fixture
def swap() -> Iterator[None]:
    """256 MiB of swap on compressed memory."""
    subprocess.run(["guest-swap", "256M"], check=True)
    try:
        yield
    finally:
        subprocess.run(["guest-swap", "off"], check=True)


@pytest.mark.usefixtures("swap")
@pytest.mark.long
def test_no_swap_unless_declared(host: Host) -> None:
    options = ["--memory", "48M", "--memory-max", "48M"]
    hog = "x = bytearray(b'z' * (90 << 20)); print('done')"
    shim = host.run(sys.executable, "-c", hog, options=options)
    assert shim.outcome["reason"] == "oom_killed"
    swapping = [*options, "--swap-max", "200M"]
    shim = host.run(sys.executable, "-c", hog, options=swapping)
    assert (shim.status, shim.stdout) == (0, "done\n")


def test_daemonized_child_goes_with_its_call(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    shim = host.run("sh", "-c", DAEMONIZE.format(file=file))
    assert shim.status == 0
    assert shim.outcome["background_pids"] == []
    until(lambda: not alive(int(file.read_text())), "the daemonized child is gone")


def test_daemonized_child_is_kept_on_request(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    shim = host.run("sh", "-c", DAEMONIZE.format(file=file), options=["--background", "keep"])
    pid = int(file.read_text())
    assert shim.outcome["background_pids"] == [pid]
    assert alive(pid)
    assert "/s/tools/background" in Path(f"/proc/{pid}/cgroup").read_text()
    assert host.daemon.client.session("s").background_pids == [pid]


def test_cpu_and_io_limits_reach_the_kernel(host: Host) -> None:
    shim = host.daemon.shim("sleep", "60", session="s", options=["--cpu-max", "0.5", "--cpu", "2"])
    leaf = host.daemon.leaf(host.daemon.call_of(shim))
    assert (leaf / "cpu.max").read_text().split() == ["50000", "100000"]
    assert (leaf / "cpu.weight").read_text().strip() == "200"
    assert (leaf / "memory.oom.group").read_text().strip() == "1"
    assert (leaf / "memory.swap.max").read_text().strip() in ("0", "max")
    shim.process.terminate()
    assert shim.wait() == 143
    assert shim.outcome["signal"] == 15


def test_exit_codes_are_the_commands_own(host: Host) -> None:
    assert host.run("sh", "-c", "exit 42").status == 42
    assert host.run("true").status == 0
    assert host.run("no-such-command").status == 127
    assert host.run("sh", "-c", "kill -9 $$").status == 137


@pytest.mark.long
def test_outcomes_are_found_again_after_a_restart(host: Host) -> None:
    shim = host.run("sh", "-c", "exit 7")
    call = shim.outcome["call"]
    host.daemon.stop()
    host.daemon.start()
    found = host.daemon.client.call(call)
    assert found.outcome is not None
    assert found.outcome.exit_code == 7


def test_what_cannot_fit_is_refused_and_nothing_runs(host: Host, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    shim = host.daemon.shim("touch", str(mark), session="s", options=["--memory", "2G"])
    assert shim.wait() == 75
    assert "declare at most" in shim.stderr
    assert not mark.exists()


def test_a_queued_call_waits_and_then_runs(host: Host) -> None:
    first = host.daemon.shim("sleep", "3", session="s", options=["--memory", "300M"])
    host.daemon.call_of(first)
    second = host.daemon.shim("true", session="s", options=["--memory", "250M"])
    assert second.wait() == 0
    assert second.outcome["waited_ms"] > 500
    assert first.wait() == 0
