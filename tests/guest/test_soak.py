# SPDX-License-Identifier: Apache-2.0
"""`make soak`: 10,000 tool calls that leave page cache behind; nothing may grow with them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PrivateDaemon, enter_cgroup, read_value, until

from agentcgroup.cgroupfs.parse import flat_keyed
from agentcgroup.programs import find_program

pytestmark = [pytest.mark.guest, pytest.mark.soak]

CALLS = 10_000
DYING_MOST = 600
FDS_MOST = 8
RSS_GROWTH_MOST_MIB = 24
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Writes a file (its page cache is charged to the leaf) and leaves it.
LOOP = """
i=0
while [ $i -lt {calls} ]; do
  {shim} -- dd if=/dev/zero of={folder}/$((i % 400)) bs=64k count=4 status=none || exit 1
  i=$((i + 1))
done
"""


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """Not in /tmp, which may be a tmpfs: what is there is no page cache."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="soak-") as folder:
        yield Path(folder)


def test_nothing_grows_with_the_number_of_calls(daemon: PrivateDaemon, on_disk: Path) -> None:
    daemon.start()
    daemon.client.create_session("s", memory="1G")
    run_calls(daemon, on_disk, 200)
    before = figures(daemon)
    after, worst_dying = before, 0
    for _ in range(20):
        taken_back_mib = after["taken_back_mib"]
        run_calls(daemon, on_disk, CALLS // 20)
        after = figures(daemon)
        print(after, flush=True)
        worst_dying = max(worst_dying, after["dying"])
        # The janitor takes cache back where it keeps too many removed cgroups alive.
        left_mib = after["cache_mib"] + after["taken_back_mib"] - taken_back_mib
        assert left_mib > 50, "the calls leave page cache behind"
    assert worst_dying <= DYING_MOST
    assert after["fds"] <= before["fds"] + FDS_MOST
    assert after["rss_mib"] <= before["rss_mib"] + RSS_GROWTH_MOST_MIB
    until(lambda: daemon.orphans() == [], "no cgroup is left behind")
    assert len(daemon.client.calls(session="s")) > 0


def run_calls(daemon: PrivateDaemon, folder: Path, calls: int) -> None:
    """From inside of the session, as its agent does."""
    script = LOOP.format(calls=calls, shim=find_program("agentcgroup-run"), folder=folder)
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
    agent = daemon.root / "s" / "agent"
    subprocess.run(
        ["sh", "-c", script], env=env, check=True,
        preexec_fn=lambda: enter_cgroup(agent),
    )  # fmt: skip


def figures(daemon: PrivateDaemon) -> dict[str, int]:
    assert daemon.process is not None
    proc = Path(f"/proc/{daemon.process.pid}")
    status = (proc / "status").read_text().splitlines()
    stat = flat_keyed(read_value(daemon.root, "cgroup.stat"))
    memory = flat_keyed(read_value(daemon.root, "memory.stat"))
    return {
        "fds": len(list((proc / "fd").iterdir())),
        "rss_mib": next(int(x.split()[1]) for x in status if x.startswith("VmRSS")) >> 10,
        "dying": stat["nr_dying_descendants"],
        "cache_mib": (memory["file"] - memory["shmem"]) >> 20,
        "taken_back_mib": memory["pgsteal"] * PAGE_BYTES >> 20,
    }
