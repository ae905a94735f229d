# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup top` on a real kernel: one call grows, one is frozen, one waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from harness import PATIENCE_S, PrivateDaemon, until
from terminal_program import ENTER_SCREEN, TerminalProgram

from agentcgroup.units import MIB

pytestmark = [pytest.mark.guest]

GROW = """
import sys, time
kept = []
for _ in range(int(sys.argv[1]) // 8):
    kept.append(b"x" * (8 << 20))
    time.sleep(0.1)
time.sleep(3600)
"""


def grow(daemon: PrivateDaemon, mib: int, *options: str) -> str:
    """A call whose command takes `mib` MiB bit by bit and keeps them."""
    command = (sys.executable, "-c", GROW, str(mib))
    return daemon.call_of(daemon.shim(*command, session="s", options=options))


def environment(daemon: PrivateDaemon) -> dict[str, str]:
    return {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket), "TERM": "xterm"}


def top_json(daemon: PrivateDaemon) -> dict[str, Any]:
    shown = subprocess.run(
        ["agentcgroup", "top", "--json"], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, env=environment(daemon), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    told: dict[str, Any] = json.loads(shown.stdout)
    return told


def three_calls(daemon: PrivateDaemon) -> tuple[str, str, str]:
    """Names of a call that uses what it declared, one frozen at its grant, one queued."""
    client = daemon.start().client
    client.create_session("s", memory="200M", memory_reserve="64M", priority="low")
    uses = grow(daemon, 64, "--memory", "90M", "--label", "the big [red]one")
    frozen = grow(daemon, 120, "--memory", "20M", "--on-exceed", "wait")
    until(lambda: client.call(frozen).state == "frozen", "the second is frozen", daemon.log_text)
    daemon.shim("true", session="s", options=("--memory", "110M", "--label", "has to wait"))
    until(lambda: client.session("s").queued == 1, "the third waits", daemon.log_text)
    until(lambda: (client.call(uses).memory_current_bytes or 0) > 64 * MIB, "the first has grown")
    return uses, frozen, next(c.call for c in client.live_calls() if c.state == "queued")


@pytest.mark.long
def test_json_tells_what_each_call_uses_and_waits_for(daemon: PrivateDaemon) -> None:
    uses, frozen, queued = three_calls(daemon)
    told = top_json(daemon)
    (session,) = told["sessions"]
    calls = {info["call"]: info for info in told["calls"]}
    assert set(calls) == {uses, frozen, queued}
    assert told["host"]["held_bytes"] + told["host"]["free_bytes"] == told["host"]["budget_bytes"]
    assert session["memory_current_bytes"] > 64 * MIB and session["cpu_s"] > 0
    assert session["pressure_pct"] is not None and session["queued"] == 1

    first = calls[uses]
    assert (first["state"], first["priority"], first["because"]) == ("running", "low", None)
    assert 64 * MIB < first["memory_current_bytes"] <= first["grant_bytes"] <= first["cap_bytes"]
    assert 90 * MIB < first["cap_bytes"] <= 136 * MIB and first["layers"] == ["files", "events"]
    assert first["cpu_s"] > 0 and 0 <= first["cpu_pct"] < 400
    assert (first["pressure_avg10_pct"], first["throttled_ms"]) != (None, None)

    second = calls[frozen]
    assert second["state"] == "frozen" and second["frozen_ms"] > 0 and second["because"]
    assert second["cpu_pct"] == 0 and 16 * MIB < second["memory_current_bytes"] < 64 * MIB
    later = {info["call"]: info for info in top_json(daemon)["calls"]}
    assert later[frozen]["frozen_ms"] > second["frozen_ms"]

    third = calls[queued]
    assert third["state"] == "queued" and "were free" in third["because"]
    assert 0 < third["waited_ms"] < later[queued]["waited_ms"]
    assert (third["layers"], third["cpu_pct"], third["grant_bytes"]) == ([], None, None)


@pytest.mark.long
def test_live_with_keys(daemon: PrivateDaemon) -> None:
    uses, frozen, queued = three_calls(daemon)
    command = ["agentcgroup", "top"]
    with TerminalProgram(command, environment(daemon), PATIENCE_S) as terminal:
        shown = terminal.until("3 calls: 1 running, 1 frozen, 1 queued", "q quit")
        assert ENTER_SCREEN in shown
        assert all(call in shown for call in (uses, frozen, queued))
        assert "the big [red]one" in shown and "200 MiB" in shown
        for key, title in (("c", "CPU %▼"), ("w", "DELAYED▼"), ("n", "SESSION/CALL▲")):
            terminal.type(key)
            terminal.until(title)
        terminal.type("/has to")
        terminal.until("filter: has to")
        terminal.type("\r")
        assert uses not in terminal.until("filter 'has to'", queued)
        terminal.type("\x1b")
        terminal.until(uses)
        daemon.client.end_session("s")
        terminal.until("No sessions.")
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.is_as_it_was(), terminal.text[-500:]


@pytest.mark.long
def test_without_a_terminal_one_table(daemon: PrivateDaemon) -> None:
    daemon.start().client.create_session("s", memory="200M")
    shown = subprocess.run(
        ["agentcgroup", "top"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment(daemon), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "1 session, 0 calls" in shown.stdout and "200 MiB" in shown.stdout
