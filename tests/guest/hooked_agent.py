# SPDX-License-Identifier: Apache-2.0
"""An agent CLI as hooks and MCP see it: asks the hook, runs what it answers, reads the result.

A program: run it in a session, it prints what it saw as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

from mcp import Client, StdioServerParameters

HOG = "x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096])"


def hook(event: dict[str, Any]) -> dict[str, Any]:
    """What `agentcgroup hook run` answers to one event of Claude Code."""
    payload = {
        "session_id": "s", "transcript_path": "/tmp/t.jsonl", "cwd": "/", "tool_name": "Bash",
        "permission_mode": "default", "tool_use_id": "toolu_1", **event,
    }  # fmt: skip
    done = subprocess.run(
        ["agentcgroup", "hook", "run", "claude-code"],
        input=json.dumps(payload), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout else {}


def bash(command: str) -> dict[str, Any]:
    """One command of the agent's, the way Claude Code runs it."""
    before = hook({"hook_event_name": "PreToolUse", "tool_input": {"command": command}})
    new = before["hookSpecificOutput"]["updatedInput"]["command"]
    done = subprocess.run(["bash", "-c", new], capture_output=True, text=True, check=False)
    event = "PostToolUseFailure" if done.returncode else "PostToolUse"
    after = hook({
        "hook_event_name": event, "tool_input": {"command": new},
        "tool_response": {"stdout": done.stdout, "stderr": done.stderr},
    })  # fmt: skip
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr, "after": after}


async def ask_mcp() -> dict[str, Any]:
    """Budget, the last outcome, and an intent that the next command uses up."""
    server = StdioServerParameters(command="agentcgroup", args=["mcp"], env=dict(os.environ))
    async with Client(server) as client:
        said = {
            name: (await client.call_tool(name, {})).structured_content
            for name in ("resource_budget", "last_outcome")
        }
        wishes = {"memory": "40M", "memory_max": "48M"}
        said["declared"] = (await client.call_tool("declare_intent", wishes)).structured_content
        (status,) = (await client.read_resource("agentcgroup://session")).contents
        said["session"] = json.loads(getattr(status, "text", ""))
    return said


def main() -> None:
    where = bash("cat /proc/self/cgroup")
    hog = bash(f'{sys.executable} -c "{HOG}"  # agentcgroup: memory=32M memory_max=64M')
    told = asyncio.run(ask_mcp())
    next_one = bash("cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max")
    print(json.dumps({"where": where, "hog": hog, "mcp": told, "next": next_one}))


if __name__ == "__main__":
    main()
