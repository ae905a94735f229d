# SPDX-License-Identifier: Apache-2.0
"""Modes observe and off: calls have their leaf and their figures, and nothing holds them."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import agentcgroup
from harness import PrivateDaemon, Shim, alive, read_value, until

from agentcgroup import Client

pytestmark = pytest.mark.guest

MIB = 1 << 20
HOG = "x = bytearray({mib} << 20); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep({s})"
UNLIMITED = {
    "memory.high": "max", "memory.max": "max", "pids.max": "max", "cpu.max": "max 100000",
    "cgroup.freeze": "0",
}  # fmt: skip
# Everything that a mode could be wrong about, asked for at once.
GREEDY = ["--memory", "32M", "--memory-max", "48M", "--pids-max", "20", "--cpu-max", "0.2",
          "--timeout", "1", "--max-wait", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    log = tmp_path_factory.mktemp("observe") / "decisions.jsonl"
    with PrivateDaemon(daemon={"mode": "observe", "decision_log": str(log)},
                       call={"term_grace_s": 0.5}) as made:  # fmt: skip
        made.decision_log = log  # type: ignore[attr-defined]
        yield made.start()


@pytest.fixture(scope="module")
def events(daemon: PrivateDaemon) -> list[dict[str, Any]]:
    """Everything that is told from now on, growing."""
    seen: list[dict[str, Any]] = []
    stream = Client(str(daemon.socket)).events()
    threading.Thread(target=lambda: seen.extend(_each(stream, seen)), daemon=True).start()
    number = iter(range(1000))

    def heard() -> bool:
        name = f"hello-{next(number)}"
        daemon.client.create_session(name, memory="64M")
        daemon.client.end_session(name)
        return bool(seen)

    until(heard, "events arrive", interval_s=0.2)
    return seen


def _each(stream: Iterator[dict[str, Any]], seen: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        for record in stream:
            seen.append(record)
    except Exception:  # the daemon ends before the test's thread does
        return
    yield from ()


def files_of(leaf: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: read_value(leaf, name) for name in names}


def decisions(records: list[dict[str, Any]], call: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["kind"] == "decision" and record.get("call") == call:
            found.setdefault(record["action"], []).append(record)
    return found


def logged(daemon: PrivateDaemon, call: str) -> dict[str, list[dict[str, Any]]]:
    """From the decision log; a record more makes it write what it still holds."""
    daemon.client.create_session("one-more", memory="64M")
    daemon.client.end_session("one-more")
    text = daemon.decision_log.read_text()  # type: ignore[attr-defined]
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return decisions([record for record in records if "kind" in record], call)


def hog(daemon: PrivateDaemon, session: str, mib: int, seconds: float, *options: str) -> Shim:
    code = HOG.format(mib=mib, s=seconds)
    return daemon.shim(sys.executable, "-c", code, session=session, options=options)


def daemon_cpu_s(daemon: PrivateDaemon) -> float:
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.long
def test_observed_calls_are_decided_about_and_never_held(
    daemon: PrivateDaemon, events: list[dict[str, Any]]
) -> None:
    info = daemon.client.create_session("watched", memory="64M", priority="low", cpu=0.5)
    assert info.mode == "observe"
    room = daemon.root / "watched"
    for where in (room, room / "tools"):
        for name in ("memory.max", "memory.high", "pids.max"):
            assert read_value(where, name) == "max", f"{where}/{name}"
    assert read_value(room, "cpu.max") == "max 100000"
    # Twice its session's budget, thrice its own cap, and beyond its time.
    shim = hog(daemon, "watched", 130, 10, *GREEDY)
    call = daemon.call_of(shim)
    leaf = daemon.leaf(call)
    assert files_of(leaf, UNLIMITED) == UNLIMITED
    until(lambda: int(read_value(leaf, "memory.current")) > 128 * MIB, "it has its memory")
    until(lambda: "kill" in decisions(events, call), "its end is decided", timeout_s=60)
    before_s, began = daemon_cpu_s(daemon), time.monotonic()
    assert alive(shim.child_pid or 0)
    assert files_of(leaf, UNLIMITED) == UNLIMITED
    time.sleep(1.0)
    busy = (daemon_cpu_s(daemon) - before_s) / (time.monotonic() - began)
    assert busy < 0.5, f"the daemon burns {busy:.0%} of a CPU over a decision it does not apply"
    assert shim.wait() == 0, shim.stderr
    assert (shim.outcome["reason"], shim.outcome["message"]) == ("completed", "")
    assert 128 * MIB <= (shim.outcome["peak_memory_bytes"] or 128 * MIB) < 200 * MIB
    assert shim.stderr == ""
    made = decisions(events, call)
    assert {"place", "terminate", "kill"} <= set(made)
    for action in ("terminate", "kill"):
        for record in made[action]:
            assert record["observed_only"] is True and record["why"] and record["code"]
    until(lambda: logged(daemon, call).keys() == made.keys(), "the decision log has the same")
    assert daemon.orphans() == []


def test_what_would_be_refused_runs(daemon: PrivateDaemon) -> None:
    """Observe changes nothing: neither a refusal nor a queue."""
    daemon.client.create_session("free", memory="64M")
    first = daemon.shim("sleep", "600", session="free", options=["--memory", "60M"])
    daemon.call_of(first)
    second = daemon.shim("echo", "ran", session="free", options=["--memory", "2G"])
    assert (second.wait(), second.stdout) == (0, "ran\n")
    assert second.outcome["waited_ms"] < 5000
    first.process.terminate()
    assert first.wait() == 143
    daemon.client.end_session("free")


def test_off_is_without_limits_and_timeouts(daemon: PrivateDaemon) -> None:
    shown = agentcgroup("session", "create", "--name", "off", "--memory", "64M", "--mode", "off",
                        "--json", AGENTCGROUP_SOCKET=str(daemon.socket))  # fmt: skip
    assert json.loads(shown.stdout)["session"]["mode"] == "off"
    shim = hog(daemon, "off", 130, 5, *GREEDY)
    leaf = daemon.leaf(daemon.call_of(shim))
    assert files_of(leaf, UNLIMITED) == UNLIMITED
    time.sleep(2.0)
    assert files_of(leaf, UNLIMITED) == UNLIMITED
    assert shim.wait() == 0, shim.stderr
    assert shim.outcome["reason"] == "completed"
    daemon.client.end_session("off")


def test_a_session_of_its_own_mode(daemon: PrivateDaemon) -> None:
    """Enforced below an observing daemon, and switched while a call is held."""
    info = daemon.client.create_session("held", memory="128M", mode="enforce")
    assert info.mode == "enforce"
    assert read_value(daemon.root / "held", "memory.max") == str(128 * MIB)
    assert hog(daemon, "held", 100, 0, "--memory-max", "32M").wait() == 137
    shim = daemon.shim("sleep", "600", session="held", options=["--memory", "32M"])
    leaf = daemon.leaf(daemon.call_of(shim))
    assert read_value(leaf, "memory.high") == str(32 * MIB)
    assert read_value(leaf, "memory.swap.max") in ("0", "max")
    shown = agentcgroup("session", "update", "held", "--mode", "observe", "--json",
                        AGENTCGROUP_SOCKET=str(daemon.socket))  # fmt: skip
    assert json.loads(shown.stdout)["session"]["mode"] == "observe", shown
    assert files_of(leaf, UNLIMITED) == UNLIMITED
    assert read_value(daemon.root / "held", "memory.max") == "max"
    assert daemon.client.update_session("held", mode="enforce").mode == "enforce"
    assert read_value(daemon.root / "held", "memory.max") == str(128 * MIB)
    assert hog(daemon, "held", 101, 0, "--memory-max", "32M").wait() == 137
    shim.process.terminate()
    assert shim.wait() == 143
    daemon.client.end_session("held")


def test_a_frozen_call_runs_on_when_its_session_is_only_observed(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("ice", memory="160M", mode="enforce")
    other = hog(daemon, "ice", 70, 600, "--memory", "80M", "--memory-max", "80M")
    daemon.call_of(other)
    options = ["--memory", "16M", "--on-exceed", "wait", "--max-wait", "300"]
    shim = hog(daemon, "ice", 100, 0, *options)
    leaf = daemon.leaf(daemon.call_of(shim))
    until(lambda: read_value(leaf, "cgroup.freeze") == "1", "it is frozen", daemon.log_text)
    daemon.client.update_session("ice", mode="observe")
    assert shim.wait() == 0, shim.stderr
    assert shim.outcome["frozen_ms"] > 0
    ended = daemon.client.end_session("ice")
    assert [o.reason.value for o in ended.outcomes] == ["killed_by_policy"]
    assert other.wait() == 137
