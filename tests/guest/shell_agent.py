# SPDX-License-Identifier: Apache-2.0
"""An agent with one persistent shell, run in a session's agent/: tells what came of commands."""

from __future__ import annotations

import json
import sys
from typing import Any

from agentcgroup.client import Client, Shell


def told(shell: Shell, command: str, **wishes: Any) -> dict[str, Any]:
    done = shell.run(command, **wishes)
    outcome = done.call.outcome
    return {
        "status": done.returncode, "out": done.stdout, "err": done.stderr,
        "reason": outcome.reason if outcome else None, "ended": done.shell_ended,
        "peak": outcome.peak_memory_bytes if outcome else None,
    }  # fmt: skip


def long_one() -> None:
    """A command that starts another one after a while."""
    with Client(require=True).shell(text=True) as shell:
        print(json.dumps(told(shell, "sleep 15; cat /proc/self/cgroup; exit 4")))


def main() -> None:
    hog = f"{sys.executable} -S -c \"data = b'x' * (600 << 20)\""
    with Client(require=True).shell(text=True) as shell:
        found = {
            "first": told(shell, "cd /tmp; mine=5; where() { cat /proc/self/cgroup; }"),
            "kept": told(shell, 'echo "$mine $PWD"; where'),
            "pipe": told(shell, "(sh -c 'cat /proc/self/cgroup' | cat)"),
            "shell": told(shell, "read place </proc/self/cgroup; echo $place"),
            "hog": told(shell, hog, memory="60M", memory_max="60M"),
            "after": told(shell, 'echo "$mine"'),
            "long": told(shell, "sleep 300", timeout_s=3),
            "left": told(shell, "sleep 300 >/dev/null 2>&1 & echo $!", background="keep"),
            "restarted": shell.restarted,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    long_one() if "long" in sys.argv else main()
