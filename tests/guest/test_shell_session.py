# SPDX-License-Identifier: Apache-2.0
"""One bash, many tool calls: the commands of a persistent shell have their leaves, it has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from boundary_agent import counts, outcomes
from harness import PATIENCE_S, PrivateDaemon, enter_cgroup, until

pytestmark = [pytest.mark.guest, pytest.mark.agents]


def shell_agent(daemon: PrivateDaemon, *arguments: str) -> subprocess.Popen[str]:
    """In the session's agent/."""
    cgroup = daemon.root / "s" / "agent"
    script = Path(__file__).with_name("shell_agent.py")
    return subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: enter_cgroup(cgroup),  # noqa: PLW1509
        env={**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket),
             "AGENTCGROUP_RECONNECT_S": str(PATIENCE_S)},
    )  # fmt: skip


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "exec"])
def test_commands_of_a_persistent_shell(daemon: PrivateDaemon, declared: bool) -> None:
    """Whether or not what its agent executes begins calls by itself."""
    daemon.start()
    spec = {"boundary": "declared" if declared else "exec"}
    daemon.client.create_session("s", memory="400M", **spec)
    ran = shell_agent(daemon)
    out, err = ran.communicate(timeout=PATIENCE_S)
    assert ran.returncode == 0, err + daemon.log_text()
    told = json.loads(out)
    assert told["kept"]["out"].startswith("5 /tmp\n0::") and "/s/tools/c" in told["kept"]["out"]
    assert "/s/tools/c" in told["pipe"]["out"]
    assert "/s/agent" in told["shell"]["out"]  # the shell itself stays with its agent
    assert told["hog"]["reason"] == "oom_killed" and told["hog"]["status"] == 137
    assert told["after"]["out"] == "5\n" and not told["restarted"]
    assert told["long"]["reason"] == "timed_out"
    survivor = int(told["left"]["out"])
    assert "/s/tools/background" in Path(f"/proc/{survivor}/cgroup").read_text()
    # One call a command, and none for the shell.
    assert len(outcomes(daemon, least=8)) == 8
    assert daemon.client.session("s").agent_pids == []


@pytest.mark.long
def test_a_shells_call_goes_on_under_the_next_daemon(daemon: PrivateDaemon) -> None:
    daemon.start()
    daemon.client.create_session("s", memory="400M")
    ran = shell_agent(daemon, "long")
    until(daemon.leaves, "its call has begun", daemon.log_text)
    until(lambda: counts(daemon)["placed"] == 1, "its first command is placed", daemon.log_text)
    daemon.kill()
    daemon.start()
    out, err = ran.communicate(timeout=PATIENCE_S)
    assert ran.returncode == 0, err + daemon.log_text()
    told = json.loads(out)
    assert "/s/tools/c" in told["out"] and told["status"] == 4 and told["reason"] == "failed"
