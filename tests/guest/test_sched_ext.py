# SPDX-License-Identifier: Apache-2.0
"""The daemon and the scheduler: who has it, what it is told, how it is lost and found again.

Where the kernel takes no scheduler, or has another one, all that is left is a line.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PATIENCE_S, PrivateDaemon, lasting_state, read_value, until
from sched_harness import (
    PINS,
    eject,
    forget_pins,
    kernel_complaints,
    link_ids,
    maps_of,
    pinned,
    spinning,
    used_share,
    wait_for_kernels_own,
)

from agentcgroup.bpf.sched import NAME, Scheduler
from agentcgroup.bpf.sched_maps import Policy, Timing
from agentcgroup.bpf.sched_plan import loaded_scheduler
from agentcgroup.types.intents import Intent, Latency, Priority

pytestmark = [pytest.mark.guest]

SCHED_EXT = {"cpu_layer": "sched_ext"}
SECOND_NS = 10**9
OFF = "sched_ext is off, cpu.weight and cpu.max in files go on: "
LOST = "sched_ext is off from now on, cpu.weight and cpu.max in files go on: "
HAS_SCHED_EXT = Path("/sys/kernel/sched_ext").is_dir()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    if HAS_SCHED_EXT:
        forget_pins()
    assert kernel_complaints() == []


@pytest.fixture
def no_place() -> Iterator[str]:
    """A kernel without sched_ext, or one whose place is taken; the words that say so."""
    if not HAS_SCHED_EXT:
        yield "the kernel has no"
        return
    first = Scheduler.open(None, lease(600), gate=False)
    try:
        yield f"another scheduler is loaded: {NAME}"
    finally:
        first.close()


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon(daemon=SCHED_EXT) as made:
        yield made


def lease(seconds: float, linger_s: float = 60) -> Timing:
    until_ns = time.monotonic_ns() + int(seconds * SECOND_NS)
    return Timing(lease_until_ns=until_ns, linger_ns=int(linger_s * SECOND_NS))


# --- where it can't be had


@pytest.mark.smoke
def test_the_daemon_goes_on_without_it_and_says_so_once(
    no_place: str, daemon: PrivateDaemon
) -> None:
    daemon.start()
    status = daemon.client.status()
    print(status["missing"], status["scheduler"])
    assert status["layers"]["cpu"] == ["files"] and "gate" not in status["layers"]["memory"]
    assert status["scheduler"]["by"] == "kernel"
    assert no_place in status["scheduler"]["why"] == status["missing"]["sched_ext"]
    assert daemon.log_text().count(OFF) == 1
    daemon.client.create_session("s", priority=Priority.LOW)
    with daemon.client.tool_call(session="s", cpu_max=0.5, latency="batch") as call:
        call.run(["true"], check=True)
        assert call.info is not None and call.id is not None
        leaf = daemon.leaf(call.id)
        assert "sched_ext" not in call.info.layers
        assert read_value(leaf, "cpu.max") == "50000 100000"
        assert read_value(leaf, "cpu.weight") != "100"
        assert daemon.client.call(call.id).gated_count is None


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--cpu", "sched_ext", "--require"], "daemon.cpu_layer", "sched_ext"),
        (["--cpu", "sched_ext", "--memory", "files,gate"], "daemon.memory_layers", "files,gate"),
    ],
)
@pytest.mark.long
def test_demanded_and_absent_nothing_is_started(
    no_place: str, options: list[str], field: str, value: str
) -> None:
    with PrivateDaemon() as daemon:
        done = subprocess.run(
            ["agentcgroup", "daemon", "--config", str(daemon.base / "config.toml"), *options],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        print(done.stderr)
        assert done.returncode == 78
        assert field in done.stderr and f"'{value}'" in done.stderr
        assert no_place in done.stderr
        assert not daemon.root.exists() and not daemon.socket.exists()


# --- what it is told


@pytest.mark.sched_ext
@pytest.mark.long
def test_classes_and_ranks_of_sessions_and_calls_reach_the_kernel(daemon: PrivateDaemon) -> None:
    daemon.start()
    status = daemon.client.status()
    print(status["scheduler"])
    assert status["layers"]["cpu"] == ["files", "sched_ext"] and status["missing"] == {}
    assert status["layers"]["memory"] == ["files", "events", "gate"]
    assert (status["scheduler"]["by"], status["scheduler"]["ops"]) == ("sched_ext", NAME)
    assert set(status["scheduler"]["gate"]["closed_count"]) == {"low", "normal", "high"}
    assert loaded_scheduler() == NAME
    doctor = {row["name"]: row for row in daemon.client.probe()["capabilities"]}
    assert doctor["scheduler"]["answer"] == doctor["bpf sched_ext"]["answer"] == "yes"
    session = daemon.root / daemon.client.create_session("s", priority=Priority.LOW).name
    (found,) = pinned()
    with maps_of(found) as maps, daemon.client.tool_call(session="s", latency="batch") as call:
        command = call.popen(["sh", "-c", "while :; do :; done"])
        assert call.info is not None and call.id is not None
        assert call.info.layers == ["files", "events", "gate", "sched_ext"]
        leaf, whole = daemon.leaf(call.id).stat().st_ino, session.stat().st_ino
        assert leaf in maps.policies(), "before the command runs"
        seen = Policy(Latency.BATCH, Priority.LOW)
        until(lambda: maps.policy_seen(leaf) == seen, "its class and rank", daemon.log_text)
        until(lambda: whole in maps.policies(), "the session has a rank, too", daemon.log_text)
        daemon.client.update_session("s", priority=Priority.HIGH)
        call.update(Intent(latency=Latency.INTERACTIVE))
        changed = Policy(Latency.INTERACTIVE, Priority.HIGH)
        until(lambda: maps.policy_seen(leaf) == changed, "the new ones", daemon.log_text)
        figures = daemon.client.call(call.id)
        assert (figures.gated_ms, figures.gated_count, figures.cpu_throttled_ms) == (0, 0, 0)
        daemon.client.update_session("s", mode="observe")
        until(lambda: not {leaf, whole} & set(maps.policies()), "nothing is enforced any more")
        daemon.client.update_session("s", mode="enforce")
        until(lambda: leaf in maps.policies(), "and again")
        command.kill()
        command.wait()
    with maps_of(found) as maps:
        assert leaf not in maps.policies(), "a call that has ended"


@pytest.mark.sched_ext
def test_garbage_among_the_policies_harms_nobody(daemon: PrivateDaemon) -> None:
    daemon.start()
    daemon.client.create_session("s")
    (found,) = pinned()
    with maps_of(found) as maps, daemon.client.tool_call(session="s") as call:
        command = call.popen(["sleep", "600"])
        assert call.id is not None
        leaf = daemon.leaf(call.id).stat().st_ino
        for key in (leaf, 1, 0, (1 << 64) - 1, *range(10**9, 10**9 + 200)):
            maps._update("acg_policies", struct.pack("=Q", key), os.urandom(8))
        maps._update("acg_policies", struct.pack("=Q", leaf), b"\xff" * 8)
        maps._go_on(lease(600))  # a new generation, and a lease that is not over
        assert daemon.shim("true", session="s").wait() == 0
        command.kill()
        assert command.wait() == -signal.SIGKILL
        assert (told := daemon.client.status()["scheduler"])["by"] == "sched_ext", told


@pytest.mark.sched_ext
def test_a_lower_priority_waits_while_a_higher_one_reclaims() -> None:
    """And counts it; a kill opens the gate, so that it is over at once."""
    settings = {"gate_closed_ms": 1000, "gate_open_ms": 1}
    with PrivateDaemon(daemon=SCHED_EXT, policy=settings) as daemon:
        daemon.start()
        for priority in (Priority.LOW, Priority.HIGH):
            daemon.client.create_session(priority.value, priority=priority)
        low = daemon.shim("sh", "-c", "while :; do :; done", session="low")
        call = daemon.call_of(low)
        until(lambda: (daemon.client.call(call).cpu_s or 0) > 0.01, "it runs")
        # What a grant that is met does, without a race with the daemon, which raises it.
        own = "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.reclaim"
        reclaims = f"while :; do echo 64K > {own}; sleep 0.01; done 2> /dev/null"
        high = daemon.shim("sh", "-c", reclaims, session="high")
        until(
            lambda: daemon.client.status()["scheduler"]["gate"]["closed_count"]["low"] > 0,
            "the gate is closed", daemon.log_text,
        )  # fmt: skip
        until(lambda: (daemon.client.call(call).gated_count or 0) > 0, "low is gated")
        until(lambda: (daemon.client.call(call).gated_ms or 0) > 0, "and the time counted")
        print(daemon.client.call(call).gated_ms, daemon.client.status()["scheduler"])
        assert daemon.client.status()["scheduler"]["gate"]["closed_count"]["high"] == 0
        daemon.client.end_session("low")
        low.wait()
        assert high.process.poll() is None


# --- how it is lost, and found again


@pytest.mark.sched_ext
@pytest.mark.long
def test_a_killed_daemon_leaves_it_to_its_successor_and_a_stopped_one_does_not(
    daemon: PrivateDaemon,
) -> None:
    daemon.start()
    daemon.client.create_session("s", priority=Priority.HIGH)
    shim = daemon.shim("sleep", "600", session="s", options=["--cpu-max", "0.5"])
    leaf = daemon.leaf(daemon.call_of(shim))
    links, before = link_ids(), lasting_state(leaf)
    daemon.kill()
    assert loaded_scheduler() == NAME and link_ids() == links
    daemon.start()
    status = daemon.client.status()
    assert status["scheduler"]["adopted"] and status["missing"] == {}
    assert "gate" in status["layers"]["memory"]
    assert loaded_scheduler() == NAME and link_ids() == links, "without a gap"
    (found,) = pinned()
    with maps_of(found) as maps:
        until(lambda: len(maps.policies()) == 2, "session and call keep theirs")
        assert leaf.stat().st_ino in maps.policies()
    # Another build of it: what is pinned does not fit, and is replaced.
    daemon.kill()
    found.rename(found.parent / "0123456789abcdef-gate")
    daemon.start()
    assert not daemon.client.status()["scheduler"]["adopted"]
    assert loaded_scheduler() == NAME and link_ids() != links and pinned() == [found]
    assert daemon.stop() == 0
    assert loaded_scheduler() is None and pinned() == [], "at once"
    assert lasting_state(leaf) == before and daemon.leaves() == {leaf.name}


@pytest.mark.sched_ext
@pytest.mark.long
def test_an_ejection_is_told_and_weights_stay_in_force(daemon: PrivateDaemon) -> None:
    daemon.start()
    daemon.client.create_session("s", priority=Priority.LOW)
    shim = daemon.shim("sleep", "600", session="s", options=["--cpu-max", "0.5"])
    leaf = daemon.leaf(daemon.call_of(shim))
    before = lasting_state(leaf)
    with spinning(daemon, one=100, three=300) as cgroups:
        ours = used_share(cgroups, 3)
        eject()
        start = time.monotonic()
        until(
            lambda: daemon.client.status()["scheduler"]["by"] == "kernel", "it is told",
            daemon.log_text,
        )  # fmt: skip
        told_s = time.monotonic() - start
        kernels = used_share(cgroups, 3)
    print(f"told after {told_s:.3f} s; shares {ours} before, {kernels} after")
    assert told_s < 2.0
    assert ours["three"] == pytest.approx(0.75, abs=0.05)
    assert kernels["three"] > 0.6, "in so short a time the kernel's own is no nearer on two CPUs"
    assert lasting_state(leaf) == before
    status = daemon.client.status()
    assert "sysrq" in status["scheduler"]["why"] == status["missing"]["sched_ext"]
    assert status["layers"]["cpu"] == ["files"] and "gate" not in status["layers"]["memory"]
    assert daemon.log_text().count(LOST) == 1
    doctor = {row["name"]: row for row in daemon.client.probe()["capabilities"]}
    assert doctor["scheduler"]["answer"] == "no" and "sysrq" in doctor["scheduler"]["reason"]
    assert loaded_scheduler() is None and pinned() == [], "and nobody attaches it again"


@pytest.mark.sched_ext
@pytest.mark.long
def test_it_comes_back_when_only_the_cpus_have_changed(daemon: PrivateDaemon) -> None:
    online = Path("/sys/devices/system/cpu/cpu1/online")
    daemon.start()
    links = link_ids()
    for state in ("0", "1"):
        online.write_text(state)
        until(lambda old=links: link_ids() not in (old, set()), "it is back", daemon.log_text)
        until(
            lambda: daemon.client.status()["scheduler"]["by"] == "sched_ext", "and known",
            daemon.log_text,
        )  # fmt: skip
        links = link_ids()
    assert loaded_scheduler() == NAME and daemon.log_text().count(LOST) == 2


@pytest.mark.sched_ext
def test_a_silent_daemon_has_no_say_and_an_absent_one_no_scheduler(scratch_cgroup: Path) -> None:
    leaf = scratch_cgroup / "leaf"
    leaf.mkdir()
    scheduler = Scheduler.open(None, lease(600, linger_s=2), gate=True)
    try:
        policy = Policy(Latency.BATCH, Priority.LOW)
        scheduler.set_policy(leaf.stat().st_ino, policy)
        script = f"echo $$ > {leaf}/cgroup.procs; while :; do :; done"
        spinner = subprocess.Popen(["sh", "-c", script])
        try:
            seen = lambda: scheduler.policy_seen(leaf.stat().st_ino)  # noqa: E731
            until(lambda: seen() == policy, "the policy holds")
            scheduler.renew(time.monotonic_ns() + SECOND_NS)
            until(lambda: seen() != policy, "until the lease ends")
            assert scheduler.runs()
            until(lambda: scheduler.ended() is not None, "then it leaves")
        finally:
            spinner.kill()
            spinner.wait()
        print(scheduler.ended())
        assert "no daemon renews the lease" in str(scheduler.ended())
        wait_for_kernels_own()
    finally:
        scheduler.close()


@pytest.mark.sched_ext
@pytest.mark.long
def test_without_pins_it_works_and_ends_with_the_daemon(daemon: PrivateDaemon) -> None:
    PINS.mkdir(exist_ok=True)
    os.chown(PINS, 1000, 1000)
    try:
        daemon.start()
        assert daemon.client.status()["scheduler"]["by"] == "sched_ext"
        assert daemon.log_text().count("would end with this process") == 1
        daemon.kill()
        wait_for_kernels_own()
    finally:
        PINS.rmdir()
