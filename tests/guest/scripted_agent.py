# SPDX-License-Identifier: Apache-2.0
"""mini-swe-agent with a scripted model: run it in a session, it prints what the model read.

    scripted_agent.py FOLDER            runs its actions as tool calls, where it is itself
    scripted_agent.py FOLDER IMAGE ARG… in a container that it starts: mini-swe-agent's own
                                        environment, which knows nothing of tool calls

With WAIT_FOR in its environment it waits for a file of this name in the folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from minisweagent.agents.default import DefaultAgent
from minisweagent.environments import get_environment
from minisweagent.models.test_models import DeterministicModel, make_output

HOG = "x = bytearray(2 << 30); x[::4096] = b'x' * len(x[::4096])"
# One that gives up: six of them on one emulated CPU would leave nothing to anybody.
BOMB = """
import os, sys, time
end = time.monotonic() + 15
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        time.sleep(0.2)
sys.exit(1)
"""
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat kept"


def environment_of(folder: str, container: list[str]) -> dict[str, Any]:
    if container:
        image, *arguments = container
        return {
            "environment_class": "docker", "image": image, "run_args": arguments, "cwd": folder,
            "timeout": 1200, "pull_timeout": 300,
        }  # fmt: skip
    return {
        "environment_class": "agentcgroup.integrations.mini_swe_agent.ToolCallEnvironment",
        "cwd": folder, "timeout": 1200, "require": True,
    }  # fmt: skip


def main(folder: str, container: list[str]) -> None:
    Path(folder, "bomb.py").write_text(BOMB)
    Path(folder, "test_it.py").write_text("def test_it():\n    assert 6 * 7 == 42\n")
    commands = [
        f'{sys.executable} -c "{HOG}"',
        f"{sys.executable} bomb.py  # agentcgroup: pids_max=50 timeout=20",
        f"{sys.executable} -m http.server --bind 127.0.0.1 8123  # agentcgroup: timeout=10",
        "sleep 600 >/dev/null 2>&1 & echo kept >kept; echo started",
        f"{sys.executable} -m pytest -q -p no:cacheprovider test_it.py",
        f'{sys.executable} -c "{HOG}"',
        SUBMIT,
    ]
    outputs = [make_output(f"step {n}", [{"command": c}]) for n, c in enumerate(commands)]
    environment = get_environment(environment_of(folder, container))
    while os.environ.get("WAIT_FOR") and not Path(folder, os.environ["WAIT_FOR"]).exists():
        time.sleep(0.2)
    agent = DefaultAgent(
        DeterministicModel(outputs=outputs), environment, cost_limit=1000.0,
        system_template="You are scripted.", instance_template="{{task}}",
    )  # fmt: skip
    result = agent.run("survive")
    read = [m["content"] for m in agent.messages if m["role"] == "user"][1:]
    where = Path("/proc/self/cgroup").read_text()
    print(json.dumps({"result": result, "read": read, "where": where}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
