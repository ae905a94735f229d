# SPDX-License-Identifier: Apache-2.0
"""tools/ has used up its memory, pids and CPU: the agent forks, works and is answered."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from harness import PrivateDaemon, read_value, until
from identity_world import World

pytestmark = [pytest.mark.guest, pytest.mark.long, pytest.mark.agents]

# For an emulated, busy machine; who is starved waits for ever.
AGENT_BOUND_S = 15.0
EXHAUST = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        while True:
            pass
held = bytearray(60 << 20)
held[::4096] = b"x" * len(held[::4096])
while True:
    try:
        os.posix_spawn("/bin/sleep", ["sleep", "900"], {})
    except OSError:
        time.sleep(0.01)
"""
GREEDY = "x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096])"


@pytest.fixture
def world() -> Iterator[World]:
    with PrivateDaemon() as daemon:
        made = World(daemon, pids_max=100)
        yield made
        made.close()


@pytest.mark.parametrize("who", ["user", "container root"])
def test_the_agent_lives_on(world: World, who: str) -> None:
    agent = world.puppet(who, "agent")
    tools = world.daemon.root / "A" / "tools"
    pids_max = int(read_value(tools, "pids.max"))
    # Nothing else of A holds a grant that would keep the two below waiting.
    os.kill(world.processes["A"], signal.SIGKILL)
    until(lambda: not world.daemon.client.session("A").calls, "A has no other call")
    world.daemon.shim(
        sys.executable, "-c", EXHAUST, session="A",
        options=["--memory", "104M", "--pids-max", str(4 * pids_max)],
    )  # fmt: skip
    until(
        lambda: int(read_value(tools, "pids.current")) >= pids_max,
        "no pid is left for tools",
        world.daemon.log_text,
    )
    # One more that takes what memory is left, and wants what is not there any more.
    world.daemon.shim(
        sys.executable, "-c", GREEDY, session="A", options=["--memory", "8M", "--max-wait", "60"]
    )
    high = int(read_value(tools, "memory.high"))
    until(
        lambda: int(read_value(tools, "memory.current")) > high // 3,
        "memory is used",
        world.daemon.log_text,
    )
    for _ in range(3):
        begun = time.monotonic()
        assert agent.result("session.get")["session"]["name"] == "A"
        assert agent.ask("session.budget") == "ok"
        assert time.monotonic() - begun < AGENT_BOUND_S
        worked = agent.do("work", count=3)
        assert worked["longest_s"] < AGENT_BOUND_S
        time.sleep(0.5)
    assert int(read_value(tools, "pids.current")) >= pids_max - 8
    held = int(read_value(tools, "memory.current"))
    print(
        f"pids {pids_max}, held {held >> 20} of {high >> 20} MiB,"
        f" longest {worked['longest_s']:.2f} s"
    )
    assert world.puppet("user", "outside").ask("host.version") == "ok"
