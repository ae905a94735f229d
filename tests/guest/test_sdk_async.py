# SPDX-License-Identifier: Apache-2.0
"""The asyncio SDK and the documentation's examples against a real daemon and a real kernel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PATIENCE_S, PrivateDaemon, until

from agentcgroup import AsyncClient
from agentcgroup.client import endpoint
from agentcgroup.types.outcomes import Reason

pytestmark = pytest.mark.guest

AGENTS_PAGE = Path(__file__).parents[2] / "docs" / "agents.md"
HOG = "x = bytearray({mib} << 20); x[::4096] = b'x' * len(x[::4096])"
TREE = "sh -c 'sleep 600 & sleep 600' & sleep 600"
CALLS = 12
# An emulated daemon needs this long for a call.
APART_S = 0.5


@pytest.mark.smoke
def test_cancelled_tasks_leave_no_leaf(
    daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are cancelled while they run, some while they begin, some while they end."""
    monkeypatch.setattr(endpoint, "GREETING_TIMEOUT_S", PATIENCE_S)
    daemon.start().client.create_session("s", memory="600M")

    async def one(client: AsyncClient, number: int) -> None:
        await asyncio.sleep(number * APART_S)
        async with client.tool_call(session="s", memory="8M", label=str(number)) as call:
            if number % 3:
                await call.run(TREE, shell=True)
            else:
                await call.run(["true"])

    async def main() -> None:
        async with AsyncClient(str(daemon.socket), require=True) as client:
            tasks = [asyncio.create_task(one(client, number)) for number in range(CALLS)]
            async with asyncio.timeout(PATIENCE_S):
                while len(daemon.leaves()) < CALLS // 3:
                    await asyncio.sleep(0.05)
                    failed = [task.exception() for task in tasks if task.done()]
                    assert not any(failed), failed
            for _ in range(2):
                for task in tasks:
                    task.cancel()
                await asyncio.sleep(0)
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)

    asyncio.run(main())
    until(lambda: not daemon.leaves(), "every leaf is gone")
    assert daemon.orphans() == []
    ended = daemon.client.calls("s", limit=CALLS)
    assert all(call.outcome is not None for call in ended)


@pytest.mark.long
def test_a_retry_with_the_intent_of_the_outcome_succeeds(daemon: PrivateDaemon) -> None:
    daemon.start().client.create_session("s", memory="600M")
    hog = [sys.executable, "-c", HOG.format(mib=100)]

    async def main() -> None:
        client = AsyncClient(str(daemon.socket), require=True)
        wish = {"memory": "32M", "memory_max": "64M"}
        again = await client.run(hog, wish, session="s", retries=3)
        assert again.outcome is not None and again.outcome.reason is Reason.COMPLETED
        assert again.call.intent.retry_of
        first = await client.outcome(again.call.intent.retry_of)
        assert first is not None and first.reason is Reason.OOM_KILLED

    asyncio.run(main())


@pytest.mark.long
def test_the_examples_of_the_documentation_run(daemon: PrivateDaemon, tmp_path: Path) -> None:
    daemon.start()
    snippets = re.findall(r"^```python\n(.*?)^```", AGENTS_PAGE.read_text("utf-8"), re.M | re.S)
    assert len(snippets) >= 8
    agent = tmp_path / "agent.py"
    # Each in a namespace of its own, all in one agent of a session of its own.
    agent.write_text(
        "import sys, json, pathlib\n"
        "for code in json.loads(pathlib.Path(sys.argv[1]).read_text()):\n"
        "    exec(compile(code, 'agents.md', 'exec'), {'__name__': 'example'})\n"
    )
    listed = tmp_path / "snippets.json"
    listed.write_text(json.dumps(snippets))
    environment = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
    shown = subprocess.run(
        ["agentcgroup", "session", "run", "--memory", "3G", "--",
         sys.executable, "-W", "error", str(agent), str(listed)],
        capture_output=True, text=True, env=environment, timeout=400, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "without limits" not in shown.stderr
    assert "cancelled, and nothing of it is left" in shown.stdout
    until(lambda: not daemon.leaves(), "every leaf is gone")
