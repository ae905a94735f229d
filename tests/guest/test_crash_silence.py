# SPDX-License-Identifier: Apache-2.0
"""A daemon that is silent, slow or gone: the guardian lets go of what was held back.

Two calls on too little memory: `holder` has it, `waiter` asked to be frozen until there is
more. A frozen call is what must never outlive the daemon's attention.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import PrivateDaemon, Shim, alive, read_value, until
from nursery import Nursery

pytestmark = [pytest.mark.guest, pytest.mark.long]

TIMEOUT_S = 2.0
# What an emulated, busy CPU may add to the guardian's bound.
SLACK_S = 10.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@dataclass
class Stage:
    daemon: PrivateDaemon
    holder: Shim
    waiter: Shim
    leaf: Path  # the waiter's
    release: Path

    def frozen(self) -> bool:
        return read_value(self.leaf, "cgroup.freeze") == "1"

    def epoch(self) -> int:
        try:
            return int(os.getxattr(self.daemon.root, "trusted.agentcgroup.epoch"))
        except OSError:
            return 0

    def finish(self) -> None:
        """Both end as their commands do, and nothing is left."""
        self.release.write_text("\n")
        assert self.holder.wait() == 3, self.holder.stderr + self.daemon.log_text()
        assert self.waiter.wait() == 4, self.waiter.stderr + self.daemon.log_text()
        for shim, code in ((self.holder, 3), (self.waiter, 4)):
            assert (shim.outcome["reason"], shim.outcome["exit_code"]) == ("failed", code)
        assert self.waiter.outcome["call"] == self.leaf.name
        until(lambda: not self.daemon.orphans(), "no cgroup is left over")


@pytest.fixture
def stage(nursery: Nursery) -> Iterator[Stage]:
    with PrivateDaemon(nursery, daemon={"memory_layers": "files"}) as daemon:
        daemon.start()
        # tools/ may have 256M; policy hands out 246M of it.
        daemon.client.create_session("s", memory="320M")
        release = daemon.base / "release"
        os.mkfifo(release)
        hold = f"(head -c {140 * MIB} /dev/zero; read _ < {release}) | tail -n 1 >/dev/null; exit 3"
        want = f"head -c {98 * MIB} /dev/zero | tail -n 1 >/dev/null; exit 4"
        holder = daemon.shim("sh", "-c", hold, session="s", options=["--memory", "180M"])
        first = daemon.call_of(holder)
        until(lambda: int(read_value(daemon.leaf(first), "memory.current")) > 140 * MIB, "it holds",
              daemon.log_text)  # fmt: skip
        options = ["--memory", "24M", "--on-exceed", "wait", "--max-wait", "900"]
        waiter = daemon.shim("sh", "-c", want, session="s", options=options)
        leaf = daemon.leaf(daemon.call_of(waiter))
        made = Stage(daemon, holder, waiter, leaf, release)
        until(made.frozen, "the daemon froze it", daemon.log_text)
        yield made


def test_stopped_daemon_is_replaced_and_returns(stage: Stage) -> None:
    epoch = stage.epoch()
    grant = int(read_value(stage.leaf, "memory.high"))
    stage.daemon.signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    until(lambda: not stage.frozen(), "the guardian thawed it", stage.daemon.log_text)
    assert time.monotonic() - stopped_s < TIMEOUT_S + SLACK_S
    assert stage.waiter.wait() == 4 if _ended(stage) else _high(stage) > grant
    # Written after the last thaw: a successor must not see it before all is done.
    until(lambda: stage.epoch() == epoch + 1, "the guardian told it", stage.daemon.log_text)
    time.sleep(max(0.0, 10.0 - (time.monotonic() - stopped_s)))
    stage.daemon.signal(signal.SIGCONT)
    until(lambda: "taking over its grants" in stage.daemon.log_text(), "it adopts the epoch")
    stage.finish()
    assert 0 < stage.waiter.outcome["frozen_ms"] < (TIMEOUT_S + SLACK_S) * 1000
    assert stage.epoch() == epoch + 1, "a daemon that is back is not replaced again"


def test_killed_daemon_leaves_nothing_frozen(stage: Stage) -> None:
    stage.daemon.kill()
    killed_s = time.monotonic()
    until(lambda: not stage.frozen(), "the guardian thawed it", stage.daemon.log_text)
    assert time.monotonic() - killed_s < TIMEOUT_S + SLACK_S
    stage.daemon.start()
    stage.finish()


def test_daemon_and_guardian_killed_together(stage: Stage) -> None:
    guardian = stage.daemon.guardian_pid
    assert guardian is not None
    os.kill(guardian, signal.SIGKILL)
    stage.daemon.kill()
    time.sleep(1)
    assert stage.frozen(), "nobody was there to thaw it"
    stage.daemon.start()
    assert stage.daemon.client.call(stage.leaf.name).state == "frozen"
    assert stage.daemon.guardian_pid not in (None, guardian)
    stage.finish()
    assert stage.waiter.outcome["frozen_ms"] > 1000


def test_guardian_alone_is_started_again(stage: Stage) -> None:
    guardian = stage.daemon.guardian_pid
    assert guardian is not None
    os.kill(guardian, signal.SIGKILL)
    until(lambda: not alive(guardian), "it is dead")
    until(lambda: stage.daemon.guardian_pid not in (None, guardian), "it is started again")
    time.sleep(1.5 * TIMEOUT_S)
    assert stage.frozen() and stage.epoch() == 0, "the new one hears the daemon"
    stage.daemon.signal(signal.SIGSTOP)
    until(lambda: not stage.frozen(), "the new one acts", stage.daemon.log_text)
    stage.daemon.signal(signal.SIGCONT)
    stage.finish()


def test_slow_daemon_is_left_alone(stage: Stage) -> None:
    for _ in range(5):
        stage.daemon.signal(signal.SIGSTOP)
        time.sleep(TIMEOUT_S / 4)
        stage.daemon.signal(signal.SIGCONT)
        time.sleep(TIMEOUT_S / 2)
    assert stage.epoch() == 0, stage.daemon.log_text()
    assert stage.frozen()
    stage.finish()


def _ended(stage: Stage) -> bool:
    return not stage.leaf.exists() or read_value(stage.leaf, "cgroup.procs") == ""


def _high(stage: Stage) -> int:
    text = read_value(stage.leaf, "memory.high")
    return 1 << 62 if text == "max" else int(text)
