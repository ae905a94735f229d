# SPDX-License-Identifier: Apache-2.0
"""The shipped units under a real systemd: restarts and kills leave running calls alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    CGROUPFS,
    PATIENCE_S,
    Shim,
    alive,
    lasting_state,
    leaf_state,
    locked_share,
    read_value,
    until,
)

from agentcgroup.client.client import Client
from agentcgroup.daemon.systemd import SCOPE
from agentcgroup.daemon.units import UNITS
from agentcgroup.errors import AgentCgroupError

pytestmark = [pytest.mark.guest, pytest.mark.systemd]

SCOPE_CGROUP = CGROUPFS / "system.slice" / SCOPE
ROOT = SCOPE_CGROUP / "tree"
UNIT_FILES = Path("/etc/systemd/system")
# systemd-analyze security, 0 (locked up) to 10: what a cgroup and BPF daemon can reach.
MOST_EXPOSED = {"agentcgroupd.service": 3.5, "agentcgroup-guardian.service": 3.0}


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{journal()}"
    return done.stdout.strip()


def main_pid(unit: str) -> int:
    return int(systemctl("show", "-p", "MainPID", "--value", unit))


def journal() -> str:
    command = ["journalctl", "--no-pager", "-n", "60", "-o", "cat", "-u", "agentcgroup*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


class Installed:
    """The units as an administrator installs them, and clients of the running service."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.shims: list[Shim] = []

    def client(self) -> Client:
        return Client(require=True)

    def ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.version())
        except AgentCgroupError:
            return False

    def shim(self, *options: str) -> Shim:
        """A call that waits for `release` and exits with 5."""
        go = self.base / f"go-{len(self.shims)}"
        os.mkfifo(go)
        script = f"read _ < {go}; exit 5"
        env = {**os.environ, "AGENTCGROUP_RECONNECT_S": str(PATIENCE_S)}
        env.pop("AGENTCGROUP_SOCKET", None)
        path = self.base / f"outcome-{len(self.shims)}.json"
        shim = Shim(["sh", "-c", script], ["--session", "s", *options], path, None, env)
        self.shims.append(shim)
        return shim

    def release(self, shim: Shim) -> None:
        (self.base / f"go-{self.shims.index(shim)}").write_text("\n")
        assert shim.wait() == 5, shim.stderr + journal()
        assert "without limits" not in shim.stderr

    def leaf(self, shim: Shim) -> Path:
        until(lambda: shim.released, "the command runs", journal)
        return until(lambda: shim.leaf(ROOT), "the command is placed", journal)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    installer = [sys.executable, "-m", "agentcgroup.daemon.units"]
    subprocess.run(installer, check=True)
    systemctl("daemon-reload")
    systemctl("start", "agentcgroup-guardian", "agentcgroupd")
    made = Installed(tmp_path_factory.mktemp("systemd"))
    until(made.ready, "the service answers", journal)
    with made.client() as client:
        client.create_session("s", memory="512M")
    yield made
    for shim in made.shims:
        shim.kill()
    systemctl("stop", "agentcgroupd", "agentcgroup-guardian", SCOPE)
    for name in UNITS:
        (UNIT_FILES / name).unlink()
    systemctl("daemon-reload")


def test_units_are_sound_and_hardened(units: Installed) -> None:
    for name in UNITS:
        done = subprocess.run(
            ["systemd-analyze", "verify", str(UNIT_FILES / name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        ours = [line for line in done.stderr.splitlines() if "agentcgroup" in line]
        assert done.returncode == 0 and not ours, done.stderr
    for name, most in MOST_EXPOSED.items():
        text = subprocess.run(
            ["systemd-analyze", "security", "--no-pager", name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
        assert found is not None, text
        print(f"{name}: exposure {found[1]}")
        assert float(found[1]) <= most, text


def test_where_everything_lives(units: Installed, kernel_role: str) -> None:
    assert read_value(SCOPE_CGROUP / "keeper", "cgroup.procs")
    assert read_value(SCOPE_CGROUP, "cgroup.procs") == ""
    for unit in ("agentcgroupd", "agentcgroup-guardian"):
        own = Path(f"/proc/{main_pid(unit)}/cgroup").read_text()
        assert f"/agentcgroup.slice/{unit}.service" in own
    assert read_value(CGROUPFS / "agentcgroup.slice", "memory.min") == str(72 << 20)
    guardian = main_pid("agentcgroup-guardian")
    assert Path(f"/proc/{guardian}/oom_score_adj").read_text().strip() == "-1000"
    assert locked_share(main_pid("agentcgroupd")) > 0.9, "hardening must not cost it its memory"
    with units.client() as client:
        status = client.status()
    assert status["root"] == str(ROOT)
    if kernel_role == "newest":
        assert status["events_source"] == "bpf", "hardening must not cost BPF its programs"


@pytest.mark.parametrize("how", ["kill -9", "restart", "stop and start"])
def test_calls_survive(units: Installed, how: str) -> None:
    shim = units.shim("--memory", "100M", "--memory-max", "200M")
    leaf = units.leaf(shim)
    before, old = lasting_state(leaf), main_pid("agentcgroupd")
    if how == "kill -9":
        os.kill(old, signal.SIGKILL)
    elif how == "restart":
        systemctl("restart", "agentcgroupd")
    else:
        systemctl("stop", "agentcgroupd")
        assert lasting_state(leaf) == before
        systemctl("start", "agentcgroupd")
    until(lambda: main_pid("agentcgroupd") not in (0, old) and units.ready(), "it is back", journal)
    assert lasting_state(leaf) == before
    units.release(shim)
    assert (shim.outcome["reason"], shim.outcome["call"]) == ("failed", leaf.name)
    with units.client() as client:
        assert client.session("s").calls == []
    assert not leaf.exists()


def test_reload_and_reexec_leave_the_limits(units: Installed) -> None:
    """systemd rewrites the cgroup files of what it manages; the tree is not among it."""
    shim = units.shim("--memory", "100M", "--memory-max", "200M")
    leaf = units.leaf(shim)
    time.sleep(2)  # until the daemon has taken back what of the grant is not used
    before, daemon = leaf_state(leaf), main_pid("agentcgroupd")
    systemctl("daemon-reload")
    assert leaf_state(leaf) == before
    systemctl("daemon-reexec")
    assert leaf_state(leaf) == before
    assert main_pid("agentcgroupd") == daemon
    units.release(shim)


def test_guardian_service_acts_and_comes_back(units: Installed) -> None:
    guardian = main_pid("agentcgroup-guardian")
    os.kill(guardian, signal.SIGKILL)
    until(lambda: main_pid("agentcgroup-guardian") not in (0, guardian), "it is started again")
    shim = units.shim()
    leaf = units.leaf(shim)
    daemon = main_pid("agentcgroupd")
    os.kill(daemon, signal.SIGSTOP)
    (leaf / "cgroup.freeze").write_text("1")
    stopped_s = time.monotonic()
    until(lambda: read_value(leaf, "cgroup.freeze") == "0", "the guardian thawed it", journal)
    assert time.monotonic() - stopped_s < 12
    os.kill(daemon, signal.SIGCONT)
    units.release(shim)
    until(units.ready, "the daemon is back", journal)


def test_stopped_for_good_daemon_is_replaced(units: Installed) -> None:
    """The watchdog ends a daemon that hangs; the next one takes the calls over."""
    shim = units.shim()
    leaf, daemon = units.leaf(shim), main_pid("agentcgroupd")
    os.kill(daemon, signal.SIGSTOP)
    until(lambda: not alive(daemon), "the watchdog ended it", journal)
    units.release(shim)
    assert shim.outcome["call"] == leaf.name


def test_clean_stop_leaves_no_process_behind(units: Installed) -> None:
    systemctl("stop", "agentcgroupd", "agentcgroup-guardian")
    for unit in ("agentcgroupd", "agentcgroup-guardian"):
        directory = CGROUPFS / "agentcgroup.slice" / f"{unit}.service"
        assert not directory.exists() or read_value(directory, "cgroup.procs") == ""
    assert read_value(SCOPE_CGROUP / "keeper", "cgroup.procs"), "the tree stays for the next start"
    systemctl("start", "agentcgroup-guardian", "agentcgroupd")
    with units.client() as client:
        assert [s.name for s in client.sessions()] == ["s"]
