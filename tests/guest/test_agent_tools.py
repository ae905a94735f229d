# SPDX-License-Identifier: Apache-2.0
"""Hooks and the MCP server in a session of a real daemon, as an agent CLI uses them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PrivateDaemon

pytestmark = [pytest.mark.guest, pytest.mark.agents]

AGENT = Path(__file__).with_name("hooked_agent.py")


@pytest.mark.long
def test_hooks_and_mcp_in_a_session(daemon: PrivateDaemon, tmp_path: Path) -> None:
    daemon.start()
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket), "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["agentcgroup", "session", "run", "--name", "mine", "--memory", "400M", "--cpu", "1",
         "--", sys.executable, str(AGENT)],
        capture_output=True, text=True, env=env, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)

    assert told["where"]["status"] == 0 and told["where"]["err"] == ""
    assert f"/{daemon.root.name}/mine/tools/c" in told["where"]["out"]
    assert told["hog"]["status"] == 137
    assert "Killed for memory" in told["hog"]["err"] and "64 MiB" in told["hog"]["err"]
    assert told["hog"]["after"] == {}  # the model has read it already

    last, budget = told["mcp"]["last_outcome"], told["mcp"]["resource_budget"]
    assert (last["reason"], last["level"], last["label"]) == ("oom_killed", "call", "toolu_1")
    assert (budget["session"], budget["memory_bytes"], budget["cpu"]) == ("mine", 400 << 20, 1.0)
    assert budget["workers"] == 1
    assert told["mcp"]["session"]["name"] == "mine"
    assert told["mcp"]["declared"]["intent_id"]
    assert told["next"]["out"] == f"{48 << 20}\n"


@pytest.mark.long
def test_a_shell_that_is_a_tool_call(daemon: PrivateDaemon, tmp_path: Path) -> None:
    daemon.start()
    shell = tmp_path / "agentcgroup-bash"
    shell.symlink_to(shutil.which("agentcgroup-run") or "")
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket), "SHELL": str(shell)}
    script = '"$SHELL" -c "cat /proc/self/cgroup # agentcgroup: memory=64M"; "$SHELL" -lc "exit 7"'
    ran = subprocess.run(
        ["agentcgroup", "session", "run", "--name", "mine", "--memory", "300M", "--", "sh", "-c",
         script],
        capture_output=True, text=True, env=env, timeout=300, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (7, "")
    assert f"/{daemon.root.name}/mine/tools/c" in ran.stdout
