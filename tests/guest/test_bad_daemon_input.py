# SPDX-License-Identifier: Apache-2.0
"""Bad input of the daemon's own: roots, sockets and configurations that cannot be."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from bad_input import refused, unchanged
from forked import CGROUPFS, Ended, agentcgroup
from harness import PrivateDaemon, read_value

pytestmark = pytest.mark.guest


class Place:
    """Paths of a daemon that must not come to be."""

    def __init__(self, tmp_path: Path) -> None:
        self.base = tmp_path
        self.socket = tmp_path / "agent" / "agent.sock"
        self.config = tmp_path / "config.toml"
        self.write()

    def write(self, **tables: dict[str, object]) -> None:
        own = {"socket": str(self.socket), "state_dir": str(self.base / "state")}
        merged = {**tables, "daemon": {**own, **tables.get("daemon", {})}}
        lines = []
        for name, table in merged.items():
            lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *options: str) -> Ended:
        return agentcgroup("daemon", "--config", str(self.config), *options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.smoke
def test_roots_that_cannot_be(place: Place, scratch_cgroup: Path) -> None:
    busy = scratch_cgroup / "busy"
    busy.mkdir()
    sleeper = subprocess.Popen(["sleep", "600"])
    (busy / "cgroup.procs").write_text(str(sleeper.pid))
    threaded = scratch_cgroup / "plain" / "threaded"
    threaded.mkdir(parents=True)
    (threaded / "cgroup.type").write_text("threaded")
    bare = scratch_cgroup / "bare"
    bare.mkdir()
    (bare / "below").mkdir()  # bare hands no controller down
    cases = (
        ("/tmp", ["'/tmp'", "not a cgroup file system", "/sys/fs/cgroup"]),
        ("/tmp/new", ["new", "cgroup"]),
        ("/dev/null", ["'/dev/null'", "directory"]),
        (str(busy), [str(busy)[:40], str(sleeper.pid), "move them to a child cgroup"]),
        (str(busy / "new"), [str(sleeper.pid), "move them to a child cgroup"]),
        (str(threaded), ["threaded", "only a domain will do"]),
        (str(bare / "below"), ["memory", "cgroup.subtree_control"]),
    )  # fmt: skip
    controls = {p: read_value(p, "cgroup.subtree_control") for p in (busy, threaded, bare)}
    try:
        with unchanged(place.base):
            for root, words in cases:
                refused(place.start("--root", root), 78, "root", *words)
        assert {p: read_value(p, "cgroup.subtree_control") for p in controls} == controls
        assert read_value(busy, "cgroup.type") == "domain"
    finally:
        sleeper.kill()
        sleeper.wait()


def test_small_root(place: Place, scratch_cgroup: Path) -> None:
    small = scratch_cgroup / "small"
    small.mkdir()
    (small / "memory.max").write_text("4M")
    with unchanged(place.base):
        refused(place.start("--root", str(small)), 78, "root", "memory.max", "16M")


def test_sockets_in_use(daemon: PrivateDaemon, place: Place) -> None:
    daemon.start()
    other = str(CGROUPFS / "acg-second")
    with unchanged(place.base):
        shown = place.start("--root", other, "--socket", str(daemon.socket))
        refused(shown, 78, "socket", "in use", "another path")
        refused(place.start("--root", str(daemon.root)), 78, "root", "another daemon", "stop it")
        file = place.base / "file"
        file.write_text("")
        refused(place.start("--root", other, "--socket", str(file)), 78, "socket", "no socket")
        shown = place.start("--root", other, "--socket", str(file / "x.sock"))
        refused(shown, 78, "socket", "Not a directory")
        refused(place.start("--root", other, "--socket", "/tmp/" + "n" * 300), 78, "socket", "107")
        refused(place.start("--root", other, "--socket", "a.sock"), 78, "socket", "absolute")
        file.unlink()
    assert daemon.client.version().version


@pytest.mark.long
def test_configurations(place: Place) -> None:
    root = str(CGROUPFS / "acg-bad-config")
    (place.base / "file").write_text("")
    cases: tuple[tuple[dict[str, dict[str, object]], list[str]], ...] = (
        ({"daemon": {"mod": "observe"}}, ["daemon.mod", "'observe'", "no such field", "mode"]),
        ({"demon": {"mode": "off"}}, ["demon", "no such field", "daemon"]),
        ({"daemon": {"mode": "of"}}, ["daemon.mode", "'of'", "'observe'"]),
        ({"host": {"memory_reserve": "900G"}}, ["host.memory_reserve", "less than the host"]),
        ({"host": {"memory_reserve": "2GBs"}}, ["host.memory_reserve", "'2GBs'", "512M"]),
        ({"session": {"pids_max": -1}}, ["session.pids_max", "-1", "16"]),
        ({"daemon": {"state_dir": str(place.base / "file")}}, ["daemon.state_dir", "file"]),
        ({"daemon": {"decision_log": "/nowhere/log"}}, ["/nowhere/log"]),
    )
    for tables, words in cases:
        place.write(**tables)
        with unchanged(place.base):
            refused(place.start("--root", root), 78, *words)
    place.config.write_text("[daemon\nmode = 5")
    with unchanged(place.base):
        refused(place.start(), 78, "config", "TOML", "line 1")
        shown = agentcgroup("daemon", "--config", str(place.base / "none"))
        refused(shown, 78, "config", "none", "No such file")
        refused(place.start("--mode", "maybe"), 78, "config")
        shown = agentcgroup("daemon", "--mode", "maybe", "--root", root)
        refused(shown, 78, "mode", "'maybe'", "'observe'")
        refused(agentcgroup("daemon", "--memory", "magic"), 78, "memory", "'magic'", "events")


def test_who_is_not_root_is_77(place: Place) -> None:
    with unchanged(place.base):
        shown = agentcgroup("daemon", "--root", "/sys/fs/cgroup/nobody", uid=1000)
        refused(shown, 77, "needs root", "sudo")
