# SPDX-License-Identifier: Apache-2.0
"""Memory policy against a real kernel: page cache and swap for who waits, learned defaults, a
call that begins with a part of what it declared, three that do not fit together or not even
alone, and what is left in tmpfs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PrivateDaemon, Shim, read_value, until

pytestmark = [pytest.mark.guest]
MIB = 1 << 20

# Grows to the sizes (MiB) it is given, one after another; stays at the last one until told.
GROW = """
import sys, time, os
held = []
for size in sys.argv[2:]:
    while sum(map(len, held)) < int(size) << 20:
        held.append(b"x" * (8 << 20))
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[PrivateDaemon]:
    """400 MiB for everybody, and next to nothing kept for agents."""
    with PrivateDaemon(session={"memory_reserve": "1M"}) as daemon:
        daemon.root.mkdir()
        (daemon.root / "memory.max").write_text(str(400 * MIB))
        yield daemon.start()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return tmp_path / "release"


def grower(
    daemon: PrivateDaemon, session: str, release: Path, *sizes_mib: int,
    options: tuple[str, ...] = (),
) -> Shim:  # fmt: skip
    return daemon.shim(
        sys.executable, "-c", GROW, str(release), *map(str, sizes_mib),
        session=session, options=options,
    )  # fmt: skip


def held(daemon: PrivateDaemon, call: str) -> int:
    return int(read_value(daemon.leaf(call), "memory.current"))


@pytest.fixture
def swap() -> Iterator[None]:
    subprocess.run(["guest-swap", "512M"], check=True)
    try:
        yield
    finally:
        subprocess.run(["guest-swap", "off"], check=True)


@pytest.mark.usefixtures("swap")
@pytest.mark.long
def test_what_a_lower_call_may_swap_out_goes_to_the_higher_one(
    small: PrivateDaemon, release: Path
) -> None:
    small.client.create_session("low", priority="low")
    small.client.create_session("high", priority="high")
    resting = grower(small, "low", release, 220, options=("--memory", "250M", "--swap-max", "250M"))
    call = small.call_of(resting)
    until(lambda: held(small, call) > 215 * MIB, "it has grown", small.log_text)
    hungry = grower(small, "high", release, 300)
    eager = small.call_of(hungry)
    until(lambda: held(small, eager) > 300 * MIB, "it got the memory", small.log_text)
    assert int(read_value(small.leaf(call), "memory.swap.current")) > 50 * MIB
    release.touch()
    for shim in (resting, hungry):
        assert shim.wait() == 0, shim.stderr
        assert shim.outcome["reason"] == "completed", shim.outcome


@pytest.mark.long
def test_page_cache_of_a_lower_call_goes_to_the_higher_one(
    small: PrivateDaemon, release: Path
) -> None:
    small.client.create_session("low", priority="low")
    small.client.create_session("high", priority="high")
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.truncate(0)
        for _ in range(220):
            file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
        Path("/proc/sys/vm/drop_caches").write_text("3")
        reader = small.shim(
            "sh", "-c", f"cat {file.name} > /dev/null; until [ -e {release} ]; do sleep 0.05; done",
            session="low", options=("--memory", "250M"),
        )  # fmt: skip
        cached = small.call_of(reader)
        until(lambda: held(small, cached) > 200 * MIB, "it has read the file", small.log_text)
        hungry = grower(small, "high", release, 300)
        call = small.call_of(hungry)
        until(lambda: held(small, call) > 300 * MIB, "the higher one has it", small.log_text)
        release.touch()
        assert (reader.wait(), hungry.wait()) == (0, 0), small.log_text()
    assert hungry.outcome["reason"] == reader.outcome["reason"] == "completed"


@pytest.mark.long
def test_the_first_grant_is_learned_and_survives_a_restart(
    daemon: PrivateDaemon, release: Path
) -> None:
    daemon.start()
    daemon.client.create_session("first", priority="high")
    daemon.client.create_session("s")
    leader = daemon.shim("sleep", "1000", session="first")
    daemon.call_of(leader)
    release.touch()
    for _ in range(3):
        call = grower(daemon, "s", release, 200)
        assert call.wait() == 0
        assert call.outcome["learned_memory_bytes"] is None
    known = grower(daemon, "s", release, 200)
    assert known.wait() == 0
    assert 200 * MIB < (known.outcome["learned_memory_bytes"] or 0) < 300 * MIB
    daemon.kill()
    daemon.start()
    again = grower(daemon, "s", release, 200)
    assert again.wait() == 0
    assert 200 * MIB < (again.outcome["learned_memory_bytes"] or 0) < 300 * MIB


@pytest.mark.long
def test_a_call_begins_with_a_part_and_gets_the_rest_later(
    small: PrivateDaemon, release: Path, tmp_path: Path
) -> None:
    small.client.create_session("s")
    first = grower(small, "s", release, 100, options=("--memory", "250M"))
    small.call_of(first)
    other = tmp_path / "other"
    second = grower(small, "s", other, 240, options=("--memory", "250M"))
    call = small.call_of(second)
    assert int(read_value(small.leaf(call), "memory.high")) < 200 * MIB
    until(lambda: held(small, call) > 100 * MIB, "it works with that", small.log_text)
    release.touch()
    assert first.wait() == 0
    until(lambda: held(small, call) > 240 * MIB, "it got the rest", small.log_text)
    other.touch()
    assert second.wait() == 0 and second.outcome["reason"] == "completed"


@pytest.mark.smoke
def test_three_that_do_not_fit_together_all_complete(small: PrivateDaemon, release: Path) -> None:
    """Peaks of 200, 180 and 180 MiB in 400; each gives everything back at its end."""
    for name, priority in (("high", "high"), ("low-1", "low"), ("low-2", "low")):
        small.client.create_session(name, priority=priority)
    release.touch()
    calls = [
        grower(small, name, release, 40, peak)
        for name, peak in (("high", 200), ("low-1", 180), ("low-2", 180))
    ]
    assert [call.wait() for call in calls] == [0, 0, 0], small.log_text()
    assert all(call.outcome["reason"] == "completed" for call in calls)


def test_three_that_can_never_finish_end_soon_and_are_told_why(
    small: PrivateDaemon, release: Path
) -> None:
    """200 MB each under 150 MB: memory.high alone lets such a call creep for minutes."""
    small.stop()
    (small.root / "memory.max").write_text(str(150 * 10**6))
    small.start()
    release.touch()
    for name in ("one", "two", "three"):
        small.client.create_session(name)
    begin_s = time.monotonic()
    calls = [grower(small, name, release, 191) for name in ("one", "two", "three")]
    assert [call.wait() for call in calls] == [137, 137, 137], small.log_text()
    assert time.monotonic() - begin_s < 120
    for call in calls:
        assert call.outcome["reason"] in ("oom_killed", "killed_by_policy")
        assert 0 < call.outcome["peak_memory_bytes"] <= 150 * 10**6
        assert call.outcome["message"] and call.outcome["retry"] is not None


@pytest.mark.long
def test_who_holds_all_beside_a_grown_agent_is_out_of_memory(
    small: PrivateDaemon, release: Path, tmp_path: Path
) -> None:
    """The agent grew while the call ran: nobody will free what the call still wants."""
    small.client.create_session("s", memory="300M")
    hog = "head -c 1G /dev/zero | tail -c 1G >/dev/null"
    command = ("sh", "-c", f"while [ ! -e {release} ]; do sleep 0.1; done; {hog}")
    greedy = small.shim(*command, session="s", options=("--memory", "64M"))
    small.call_of(greedy)
    agent = subprocess.Popen([sys.executable, "-c", GROW, str(tmp_path / "enough"), "130"])
    try:
        (small.root / "s" / "agent" / "cgroup.procs").write_text(str(agent.pid))
        until(
            lambda: (small.client.session("s").memory_current_bytes or 0) > 130 * MIB, "it grew"
        )  # fmt: skip
        time.sleep(1)  # agents are looked at twice a second
        release.touch()
        assert greedy.wait() == 137
        told = greedy.outcome
        assert (told["reason"], told["level"]) == ("oom_killed", "session"), told
        assert "of its agent, background processes and files in tmpfs" in told["message"]
        assert told["memory_limit_bytes"] < 200 * MIB and not told["retry"]["worthwhile"], told
        again = small.shim(*command, session="s", options=("--memory", "64M"))
        assert again.wait() == 75
        assert "was killed for memory at 1" in again.outcome["message"], again.outcome
        assert agent.poll() is None
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.long
def test_what_calls_leave_in_tmpfs_counts_and_is_told(small: PrivateDaemon, release: Path) -> None:
    small.client.create_session("s", memory="200M")
    release.touch()
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as left:
        fill = f"head -c 120M /dev/zero > {left.name}"
        writer = small.shim("sh", "-c", fill, session="s")
        assert writer.wait() == 0
        greedy = grower(small, "s", release, 150)
        assert greedy.wait() == 137
        told = greedy.outcome
        assert told["reason"] in ("oom_killed", "killed_by_policy")
        assert "Earlier tool calls of this session left 1" in told["message"], told
        assert "delete" in told["message"]
        assert small.client.session("s").memory_current_bytes >= 119 * MIB
    fits = grower(small, "s", release, 150)
    assert fits.wait() == 0
