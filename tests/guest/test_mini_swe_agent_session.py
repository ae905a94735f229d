# SPDX-License-Identifier: Apache-2.0
"""A scripted mini-swe-agent in a session: a hog, a fork bomb, a server that hangs, a pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PrivateDaemon, until

pytestmark = [pytest.mark.guest, pytest.mark.agents, pytest.mark.long]

AGENT = Path(__file__).with_name("scripted_agent.py")


def test_the_agent_survives_and_reads_why(daemon: PrivateDaemon, tmp_path: Path) -> None:
    daemon.start()
    env = {
        **os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket), "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_GLOBAL_CONFIG_DIR": str(tmp_path / "config"),
    }  # fmt: skip
    ran = subprocess.run(
        ["agentcgroup", "session", "run", "--name", "mini", "--memory", "500M", "--",
         sys.executable, str(AGENT), str(tmp_path)],
        capture_output=True, text=True, env=env, timeout=800, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["where"] == f"0::/{daemon.root.name}/mini/agent\n"
    assert told["result"] == {"exit_status": "Submitted", "submission": "kept\n"}

    hog, bomb, server, started, tests, again = told["read"]
    assert "<returncode>137<" in hog and "Killed for memory" in hog
    assert "its limit is 50 processes" in bomb or "timeout of 20 s" in bomb, bomb
    assert "<returncode>124<" in server and "timeout of 10 s" in server
    assert "<returncode>0<" in started and "started" in started
    assert "<returncode>0<" in tests and "1 passed" in tests and "agentcgroup:" not in tests
    assert "<returncode>75<" in again and "same command was killed for memory" in again
    until(lambda: not daemon.client.sessions(), "the session ends with its agent")
    assert not (daemon.root / "mini").exists()
