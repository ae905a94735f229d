# SPDX-License-Identifier: Apache-2.0
"""The daemon dies after every numbered step of begin, grant and end, and nothing is lost.

Each point: a call goes on until the daemon kills itself there, a new one reads the tree
back, and the call ends as if nothing had been: same process, right exit status, one
outcome, no cgroup left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PrivateDaemon, Shim, alive, lasting_state, leaf_state, until
from nursery import Nursery

from agentcgroup.daemon.crashpoints import POINTS
from agentcgroup.units import MIB

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

EXIT_CODE = 7
GROWN_BYTES = 120 * MIB
# tail holds in memory what has no line end.
GROW = f"head -c {GROWN_BYTES} /dev/zero | tail -n 1 | wc -c >&2"
QUICK = f"exit {EXIT_CODE}"


@pytest.fixture(scope="module")
def rig() -> Iterator[PrivateDaemon]:
    """One tree, one session and one outcome log for all: recovered again and again."""
    with Nursery() as nursery, PrivateDaemon(nursery, daemon={"memory_layers": "files"}) as made:
        made.start()
        made.client.create_session("s", memory="512M")
        yield made


def fifo(rig: PrivateDaemon) -> Path:
    """What a command waits for until the test has looked."""
    path = rig.base / f"go-{len(rig.shims)}"
    os.mkfifo(path)
    return path


def outcomes(daemon: PrivateDaemon, label: str) -> list[dict[str, Any]]:
    """Ended calls with this label, as kept by the daemon."""
    listed = daemon.client.calls(session=None, limit=1000)
    return [c.outcome.model_dump() for c in listed if c.outcome and c.outcome.label == label]


def crash(rig: PrivateDaemon, point: str, *command: str, **options: Any) -> Shim:
    """A call that drives the daemon to its end at `point`."""
    if rig.process is not None and rig.process.poll() is None:
        rig.kill()
    rig.start(crash_at=point)
    label = ["--label", options.pop("label", point), *options.pop("options", ())]
    shim = rig.shim("sh", "-c", *command, options=label, **options)
    assert rig.died() == -signal.SIGKILL, rig.log_text()
    return shim


def check_outcome(rig: PrivateDaemon, shim: Shim, label: str) -> dict[str, Any]:
    assert shim.wait() == EXIT_CODE, f"{shim.stderr}\n{rig.log_text()}"
    assert "without limits" not in shim.stderr
    found = shim.outcome
    assert (found["reason"], found["exit_code"]) == ("failed", EXIT_CODE), found
    assert [o["call"] for o in outcomes(rig, label)] == [found["call"]]
    until(lambda: not rig.orphans(), "no cgroup is left over", lambda: str(rig.orphans()))
    assert found["call"] not in rig.leaves()
    assert set(shim.outcome) == set(outcomes(rig, label)[0])
    return found


SHORT = {"begin.placed", "grant.written", "end.stored"}


def points(prefix: str) -> list[Any]:
    """Every crash point of a step; one of each step also in the short set."""
    return [
        point if point in SHORT else pytest.param(point, marks=pytest.mark.long)
        for point in POINTS
        if point.startswith(prefix)
    ]


@pytest.mark.parametrize("point", points("begin."))
def test_begin(rig: PrivateDaemon, point: str) -> None:
    go = fifo(rig)
    shim = crash(rig, point, f"echo $$; read _ < {go}; {QUICK}", session="s")
    pid = shim.child_pid
    assert pid is not None and alive(pid)
    left = rig.leaves()
    rig.start()
    go.write_text("\n")
    found = check_outcome(rig, shim, point)
    assert shim.stdout == f"{pid}\n", "another process ran than the one that waited"
    recorded = POINTS.index(point) >= POINTS.index("begin.recorded")
    assert (left == {found["call"]}) is recorded, "a recorded call keeps its leaf and name"


@pytest.mark.parametrize("point", points("grant."))
@pytest.mark.long
def test_grant(rig: PrivateDaemon, point: str) -> None:
    """It needs more than its grant while nobody can grant: the guardian raises it."""
    go = fifo(rig)
    script = f"{GROW}; read _ < {go}; {QUICK}"
    shim = crash(rig, point, script, session="s", options=["--memory", "32M"])
    leaf = shim.leaf(rig.root)
    assert leaf is not None
    until(lambda: _peak(leaf) >= GROWN_BYTES, "the guardian let it grow", rig.log_text)
    until(lambda: leaf_state(leaf)["pids"] == [shim.child_pid], "only the shell is left")
    before = lasting_state(leaf)
    rig.start()
    until(lambda: rig.client.call(leaf.name).state == "running", "it is adopted")
    assert lasting_state(leaf) == before
    go.write_text("\n")
    found = check_outcome(rig, shim, point)
    assert found["call"] == leaf.name
    assert found["peak_memory_bytes"] >= GROWN_BYTES


@pytest.mark.parametrize("point", points("end."))
def test_end(rig: PrivateDaemon, point: str) -> None:
    shim = crash(rig, point, f"sleep 0.3; {QUICK}", session="s")
    left = rig.leaves()
    rig.start()
    found = check_outcome(rig, shim, point)
    removed = POINTS.index(point) >= POINTS.index("end.removed")
    assert left == (set() if removed else {found["call"]})
    assert found["duration_s"] >= 0.3 and found["cpu_s"] > 0 and found["peak_memory_bytes"] > 0


@pytest.mark.parametrize("point", ["begin.made", "begin.placed", "end.received", "end.removed"])
@pytest.mark.long
def test_session_of_one_call_ends_with_it(rig: PrivateDaemon, point: str) -> None:
    """Without --session an operator's call gets a session of its own."""
    shim = crash(rig, point, QUICK, label=f"alone at {point}")
    rig.start()
    check_outcome(rig, shim, f"alone at {point}")
    until(lambda: [s.name for s in rig.client.sessions()] == ["s"], "its session is gone")


def _peak(leaf: Path) -> int:
    return int((leaf / "memory.peak").read_text())
