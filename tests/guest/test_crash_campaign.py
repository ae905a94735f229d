# SPDX-License-Identifier: Apache-2.0
"""Ten `kill -9` at random moments while twenty calls at a time begin, grow and end."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import pytest
from harness import PATIENCE_S, PrivateDaemon, Shim, alive, until
from nursery import Nursery

from agentcgroup.units import MIB

pytestmark = [pytest.mark.guest, pytest.mark.campaign]

SEED = 20261122
KILLS = 10
AT_ONCE = 20
MOST_CALLS = 400


@dataclass
class Expected:
    shim: Shim
    label: str
    code: int
    pid: int | None = None
    leaf: str | None = None


class Crowd:
    """Twenty shims, each replaced by another when it has ended."""

    def __init__(self, daemon: PrivateDaemon, rng: random.Random) -> None:
        self.daemon = daemon
        self.rng = rng
        self.running: list[Expected] = []
        self.ended: list[Expected] = []

    def step(self, *, refill: bool) -> None:
        for call in self.running:
            call.pid = call.pid or call.shim.child_pid
            leaf = call.shim.leaf(self.daemon.root)
            if leaf is not None:
                assert call.leaf in (None, leaf.name), "a running call changed its leaf"
                call.leaf = leaf.name
        done = [call for call in self.running if call.shim.process.poll() is not None]
        for call in done:
            self.running.remove(call)
            self.ended.append(call)
        while refill and len(self.running) < AT_ONCE and len(self.ended) < MOST_CALLS:
            self.running.append(self._another())

    def _another(self) -> Expected:
        code = self.rng.randrange(1, 100)
        label = f"call-{len(self.running) + len(self.ended)}-{code}"
        grow = self.rng.choice((0, 0, 8, 48)) * MIB
        work = f"head -c {grow} /dev/zero | tail -n 1 >/dev/null; " if grow else ""
        script = f"echo $$; {work}sleep {self.rng.uniform(0, 6):.2f}; exit {code}"
        options = ["--memory", "24M", "--label", label]
        return Expected(self.daemon.shim("sh", "-c", script, session="s", options=options),
                        label, code)  # fmt: skip


def test_ten_kills_under_twenty_calls() -> None:
    rng = random.Random(SEED)
    with Nursery() as nursery, PrivateDaemon(nursery) as daemon:
        daemon.start()
        daemon.client.create_session("s", memory="1536M", pids_max=4096)
        crowd = Crowd(daemon, rng)
        for _ in range(KILLS):
            moment_s = time.monotonic() + rng.uniform(0.2, 4.0)
            while time.monotonic() < moment_s:
                crowd.step(refill=True)
                time.sleep(0.02)
            daemon.kill()
            crowd.step(refill=False)
            daemon.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while crowd.running:
            assert time.monotonic() < deadline_s, daemon.log_text()
            crowd.step(refill=False)
            time.sleep(0.05)
        assert len(crowd.ended) > AT_ONCE
        check_all(daemon, crowd)


def check_all(daemon: PrivateDaemon, crowd: Crowd) -> None:
    listed = daemon.client.calls(limit=1000)
    by_label = {c.outcome.label: c.outcome for c in listed if c.outcome is not None}
    managed = 0
    for call in crowd.ended:
        status = call.shim.wait()
        told = f"{call.label} {call.leaf}: {call.shim.stderr}\n{daemon.log_text()[-6000:]}"
        assert status == call.code, told
        if "no daemon answers" in call.shim.stderr:
            # Started just before a kill: a shim that never reached a daemon waits 2 s.
            assert call.leaf is None and call.label not in by_label, told
            continue
        managed += 1
        assert "without limits" not in call.shim.stderr, told
        assert call.pid is None or call.shim.stdout == f"{call.pid}\n", told
        assert call.pid is None or not alive(call.pid)
        outcome = call.shim.outcome
        assert (outcome["reason"], outcome["exit_code"]) == ("failed", call.code), told
        assert call.leaf in (None, outcome["call"]), told
        assert call.label in by_label, told
        kept = by_label[call.label]
        assert kept.call == outcome["call"] and kept.model_dump(mode="json") == outcome
    assert len(listed) == len(by_label) == managed > 2 * AT_ONCE, "one outcome a call, each its own"
    until(lambda: not daemon.orphans(), "no cgroup is left over")
    assert daemon.leaves() == set()
