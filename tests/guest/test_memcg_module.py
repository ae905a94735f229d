# SPDX-License-Identifier: Apache-2.0
"""The memory hooks on a real kernel: module, program, delays; how they end; what the daemon does.

On kernels for which the module can't be built, each test asserts that this is said.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PATIENCE_S, PrivateDaemon, until
from memcg_harness import (
    KMOD,
    ROLES_WITH_MODULE,
    STATS,
    Toucher,
    current_bytes,
    modprobe,
    stats,
    unload,
)

from agentcgroup.bpf import memcg_ops
from agentcgroup.bpf.memcg_ops import Line, MemcgOps
from agentcgroup.errors import NotSupportedError
from agentcgroup.policy.delay import CEILING_MS, STEPS, DelayCurve
from agentcgroup.types.intents import Priority
from agentcgroup.units import MIB

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

LEASE_NS = 600 * 10**9
# A charge takes 64 pages in advance, so that this much is charged for certain.
CHARGED_BYTES = 512 * 1024
# What an emulated, shared CPU adds to a sleep, at most.
SLACK_S = 10.0


@pytest.fixture
def module(kernel_role: str) -> Iterator[bool]:
    """The module, loaded; False on a kernel without one, after it was seen to be told so."""
    if kernel_role not in ROLES_WITH_MODULE:
        assert not KMOD.exists()
        with pytest.raises(NotSupportedError, match=r"bpf/kmod/README\.md|has no BTF"):
            memcg_ops.find_offer()
        yield False
        return
    assert KMOD.exists(), "the guest was built without the module: see what `run` said"
    done = modprobe("insmod", str(KMOD))
    assert done.returncode == 0, done.stderr
    try:
        yield True
    finally:
        if STATS.exists():
            unload()


@pytest.fixture
def leaf(scratch_cgroup: Path) -> Path:
    """A cgroup for processes, without swap."""
    made = scratch_cgroup / "leaf"
    made.mkdir()
    (made / "memory.swap.max").write_text("0")
    return made


def flat(delay_ms: int, above_bytes: int) -> Line:
    """The same delay for everything above."""
    return Line(above_bytes, above_bytes, 1 << 30, (delay_ms,) * 16)


def test_without_the_module_it_is_told_what_to_do() -> None:
    with pytest.raises(NotSupportedError) as told:
        MemcgOps.open()
    print(told.value)
    assert "memcg_bpf_ops" in str(told.value) and "bpf/kmod/README.md" in str(told.value)


def test_delays_are_as_long_as_told_and_bounded(module: bool, leaf: Path) -> None:
    if not module:
        return
    line_bytes = 96 * MIB
    (leaf / "memory.high").write_text(str(line_bytes))
    hooks = MemcgOps.open()
    try:
        assert hooks.offer == memcg_ops.Offer("module agentcgroup_memcg", protection=False)
        cgroup_id = leaf.stat().st_ino
        with Toucher(leaf) as toucher:
            toucher.touch(line_bytes - current_bytes(leaf) + CHARGED_BYTES)
            own_s = toucher.touch(CHARGED_BYTES)
            before = stats()
            hooks.set(cgroup_id, flat(300, MIB))
            assert toucher.touch(CHARGED_BYTES) < 0.3 + own_s + SLACK_S
            assert stats()["delays"] == before["delays"], "no lease, no delay"
            hooks.renew(time.monotonic_ns() + LEASE_NS)
            for told_ms, slept_ms in ((100, 100), (300, 300), (60_000, CEILING_MS)):
                hooks.set(cgroup_id, flat(told_ms, MIB))
                before = stats()
                took_s = toucher.touch(CHARGED_BYTES)
                after = stats()
                count = after["delays"] - before["delays"]
                print(f"told {told_ms} ms: {count} delays, an allocation took {took_s:.3f} s, "
                      f"{own_s:.3f} s without")  # fmt: skip
                assert count >= 1
                # In jiffies, rounded up.
                assert count * slept_ms <= after["ms"] - before["ms"] <= count * (slept_ms + 8)
                assert count * slept_ms / 1000 <= took_s
                assert took_s <= count * slept_ms / 1000 + own_s + SLACK_S
            hooks.set(cgroup_id, flat(2000, 1 << 40))
            before = stats()
            toucher.touch(CHARGED_BYTES)
            hooks.clear(cgroup_id)
            toucher.touch(CHARGED_BYTES)
            assert stats()["delays"] == before["delays"], "below its line, or without one"
    finally:
        hooks.close()


@pytest.mark.long
def test_the_table_is_looked_up_as_the_daemon_would(module: bool, leaf: Path) -> None:
    if not module:
        return
    (leaf / "memory.high").write_text(str(64 * MIB))
    hooks = MemcgOps.open()
    try:
        hooks.renew(time.monotonic_ns() + LEASE_NS)
        cgroup_id = leaf.stat().st_ino
        delays_ms = tuple(20 * (step + 1) for step in range(STEPS))
        with Toucher(leaf) as toucher:
            toucher.touch(64 * MIB - current_bytes(leaf) + CHARGED_BYTES)

            def delayed_ms(size_bytes: int) -> tuple[int, int]:
                before = stats()
                toucher.touch(size_bytes)
                after = stats()
                return after["delays"] - before["delays"], after["ms"] - before["ms"]

            for step in (0, 5, 15, 30):
                # In the middle of it, so that it is the same one before and after.
                width = current_bytes(leaf) // (step + 1)
                stop = current_bytes(leaf) - step * width - width // 2
                curve = DelayCurve(stop, stop, width, delays_ms)
                hooks.set(cgroup_id, Line(stop, stop, width, delays_ms))
                count, slept_ms = delayed_ms(CHARGED_BYTES)
                expected = curve.delay(current_bytes(leaf), delayed=False)
                print(f"step {step}: {count} delays, {slept_ms} ms, {expected} ms each expected")
                assert count >= 1
                assert count * expected <= slept_ms <= count * (expected + 8)
            # Further apart than what the kernel charges ahead for its CPUs and reads in again.
            usage = current_bytes(leaf)
            hooks.set(cgroup_id, Line(usage + 6 * MIB, usage - 8 * MIB, 64 * MIB, (5,) * STEPS))
            delays = delayed_ms(MIB)
            grown_bytes = current_bytes(leaf) - usage
            assert delays == (0, 0), f"between the lines, from below; grew by {grown_bytes}"
            assert delayed_ms(7 * MIB)[0] >= 1, "above both"
            toucher.touch(-7 * MIB)
            assert delayed_ms(MIB)[0] >= 1, "between the lines, from above"
        gone = leaf.parent / "gone"
        gone.mkdir()
        before = hooks.counts()["offline"]
        gone.rmdir()
        until(lambda: hooks.counts()["offline"] > before, "a removed cgroup is heard of")
    finally:
        hooks.close()


@pytest.mark.long
def test_a_kill_and_a_thaw_end_a_delay(module: bool, leaf: Path) -> None:
    if not module:
        return
    (leaf / "memory.high").write_text(str(16 * MIB))
    hooks = MemcgOps.open()
    try:
        hooks.renew(time.monotonic_ns() + LEASE_NS)
        with Toucher(leaf) as toucher:
            toucher.touch(16 * MIB)
            hooks.set(leaf.stat().st_ino, flat(CEILING_MS, MIB))
            before = stats()
            toucher.start(CHARGED_BYTES)
            until(lambda: stats()["delays"] > before["delays"], "it is delayed")
            (leaf / "cgroup.freeze").write_text("1")
            (leaf / "cgroup.freeze").write_text("0")
            toucher.finish()
            thawed = stats()
            count = thawed["delays"] - before["delays"]
            print(f"freeze and thaw: {count} delays, {thawed['ms'] - before['ms']} ms")
            assert thawed["ms"] - before["ms"] < count * CEILING_MS
            toucher.start(CHARGED_BYTES)
            until(lambda: stats()["delays"] > thawed["delays"], "it is delayed again")
            (leaf / "cgroup.kill").write_text("1")
            start = time.monotonic()
            toucher.process.wait(PATIENCE_S)
            killed = stats()
            print(f"killed within {time.monotonic() - start:.3f} s of its delay: {killed}")
            assert killed["killed"] == thawed["killed"] + 1
            assert killed["ms"] - thawed["ms"] < CEILING_MS
            assert killed["pending"] == 0
    finally:
        hooks.close()


def test_one_holder_at_a_time(module: bool) -> None:
    if not module:
        return
    hooks = MemcgOps.open()
    try:
        with pytest.raises(NotSupportedError, match="taken: another program is attached"):
            MemcgOps.open()
        refused = modprobe("rmmod", "agentcgroup_memcg")
        assert refused.returncode != 0 and "in use" in refused.stderr
        assert not hooks.detached()
    finally:
        hooks.close()
    MemcgOps.open().close()


@pytest.mark.long
def test_detach_and_unload_under_load(module: bool, leaf: Path) -> None:
    if not module:
        return
    (leaf / "memory.high").write_text(str(48 * MIB))
    touchers = [Toucher(leaf) for _ in range(6)]
    try:
        for _ in range(3):
            hooks = MemcgOps.open()
            hooks.renew(time.monotonic_ns() + LEASE_NS)
            hooks.set(leaf.stat().st_ino, flat(700, MIB))
            before = stats()
            for toucher in touchers:
                toucher.start(9 * MIB)
            until(lambda b=before: stats()["delays"] > b["delays"] + 3, "all are delayed")
            assert stats()["pending"] >= 1
            if hooks.counts()["delayed"] % 2:
                detach_from_outside()
                assert hooks.detached()
            hooks.close()
            took_s = unload()
            print(f"unloaded {took_s:.3f} s after detaching under load")
            assert not STATS.exists()
            (leaf / "memory.high").write_text("max")
            for toucher in touchers:
                assert toucher.process.poll() is None
                toucher.finish()
            (leaf / "memory.high").write_text(str(48 * MIB))
            assert modprobe("insmod", str(KMOD)).returncode == 0
    finally:
        for toucher in touchers:
            toucher.close()
    assert "BUG" not in kernel_log() and "WARNING" not in kernel_log()


def test_a_module_for_another_kernel_does_not_load(module: bool, tmp_path: Path) -> None:
    if not module:
        return
    unload()
    image = KMOD.read_bytes()
    # Not the release: with symbol versions the kernel looks at what follows it only.
    at = image.index(b" SMP ", image.index(b"vermagic="))
    other = tmp_path / KMOD.name
    other.write_bytes(image[:at] + b" UP  " + image[at + len(b" SMP ") :])
    done = modprobe("insmod", str(other))
    assert done.returncode != 0 and not STATS.exists()
    assert "version magic" in kernel_log()
    with pytest.raises(NotSupportedError, match=r"bpf/kmod/README\.md"):
        MemcgOps.open()


# --- the daemon


def test_the_daemon_goes_on_without_it_and_says_so_once() -> None:
    with PrivateDaemon(daemon={"memcg_ops": "on"}) as daemon:
        daemon.start()
        report = daemon.client.status()
        assert "memcg_ops" not in report["layers"]["memory"]
        assert "bpf/kmod/README.md" in report["missing"]["memcg_ops"]
        assert report["memcg_ops"] is None
        assert daemon.log_text().count("memcg_ops is off, files and events go on") == 1
        daemon.client.create_session("s", memory="512M")
        assert daemon.shim("true", session="s").wait() == 0


@pytest.mark.parametrize("setting", [{"memcg_ops": "required"}, {"memory_layers": "memcg_ops"}])
def test_demanded_and_absent_nothing_is_started(setting: dict[str, str]) -> None:
    with PrivateDaemon(daemon=setting) as daemon:
        config = daemon.base / "config.toml"
        done = subprocess.run(
            ["agentcgroup", "daemon", "--config", str(config)],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        print(done.stderr)
        assert done.returncode == 78
        for word in ("daemon.memcg_ops", "'required'", "use 'on'", "bpf/kmod/README.md"):
            assert word in done.stderr
        assert not daemon.root.exists() and not daemon.socket.exists()


@pytest.mark.long
def test_a_call_above_its_grant_is_delayed_by_the_daemon(module: bool) -> None:
    settings = {"step": "1M", "delay_burst_pct": 0, "delay_max_ms": 100, "throttle_max_ms": 3000}
    with PrivateDaemon(daemon={"memcg_ops": "on"}, policy=settings) as daemon:
        daemon.start()
        status = daemon.client.status()
        if not module:
            assert "memcg_ops" not in status["layers"]["memory"]
            return
        assert status["layers"]["memory"][-1] == "memcg_ops" and status["missing"] == {}
        assert status["memcg_ops"]["by"] == "module agentcgroup_memcg"
        begun = stats()
        print(f"seen by the daemon before it said so: {begun}")
        assert begun["delays"] >= 1
        daemon.client.create_session("high", memory="512M", priority=Priority.HIGH)
        high = daemon.shim(*populate(96), session="high", options=["--memory", "16M"])
        assert high.wait() == 0, high.stderr
        assert stats()["delays"] == begun["delays"], "high priority is never delayed"
        daemon.client.create_session("low", memory="192M", priority=Priority.LOW)
        assert "memcg_ops" in layers_of_a_call(daemon, "low")
        holder = daemon.shim(*populate(90, keep=True), session="low", options=["--memory", "100M"])
        held = daemon.leaf(daemon.call_of(holder))
        until(lambda: current_bytes(held) > 90 * MIB, "most memory is taken", daemon.log_text)
        low = daemon.shim(*populate(48), session="low", options=["--memory", "8M"])
        until(lambda: stats()["delays"] > begun["delays"], "it is delayed", daemon.log_text)
        holder.kill()
        assert low.wait() == 0, low.stderr
        after = stats()
        print(f"low priority: {after}, {daemon.client.status()['memcg_ops']}")
        assert after["ms"] - begun["ms"] <= (after["delays"] - begun["delays"]) * (100 + 8)
        assert daemon.stop() == 0
        unload()


@pytest.mark.long
def test_detached_under_load_the_daemon_demotes_and_calls_go_on(module: bool) -> None:
    if not module:
        return
    with PrivateDaemon(daemon={"memcg_ops": "required"}) as daemon:
        daemon.start()
        daemon.client.create_session("low", memory="512M", priority=Priority.LOW)
        shim = daemon.shim(*populate(64, times=20), session="low", options=["--memory", "16M"])
        daemon.call_of(shim)
        detach_from_outside()
        until(
            lambda: "memcg_ops" not in daemon.client.status()["layers"]["memory"],
            "it is demoted", daemon.log_text,
        )  # fmt: skip
        unload()
        said = "memcg_ops is off from now on, files and events go on: "
        assert daemon.log_text().count(said) == 1
        assert "detached" in daemon.client.status()["missing"]["memcg_ops"]
        assert shim.wait() == 0, shim.stderr
        assert layers_of_a_call(daemon, "low") == ["files", "events"]


@pytest.mark.long
def test_a_killed_daemon_leaves_no_hook(module: bool) -> None:
    if not module:
        return
    with PrivateDaemon(daemon={"memcg_ops": "required"}) as daemon:
        daemon.start()
        daemon.kill()
        took_s = unload()
        print(f"unloaded {took_s:.3f} s after kill -9")
        assert modprobe("insmod", str(KMOD)).returncode == 0
        daemon.start()
        assert "memcg_ops" in daemon.client.status()["layers"]["memory"]


def populate(size_mib: int, *, keep: bool = False, times: int = 1) -> list[str]:
    """A command that allocates this much at once, lets go of it (or not), and again."""
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    block = f"block = mmap.mmap(-1, {size_mib} << 20, flags={flags})"
    after = "time.sleep(9999)" if keep else "block.close(); time.sleep(0.1)"
    return ["python3", "-c", f"import mmap, time\nfor _ in range({times}): {block}; {after}"]


def layers_of_a_call(daemon: PrivateDaemon, session: str) -> list[str]:
    with daemon.client.tool_call(session=session) as call:
        call.run(["true"], check=True)
        assert call.info is not None
        return list(call.info.layers)


def detach_from_outside() -> None:
    """As an administrator would."""
    listed = subprocess.run(
        ["bpftool", "link", "list"], capture_output=True, text=True, check=True
    ).stdout
    number = next(line.split(":")[0] for line in listed.splitlines() if "struct_ops" in line)
    subprocess.run(["bpftool", "link", "detach", "id", number], check=True)


def kernel_log() -> str:
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
