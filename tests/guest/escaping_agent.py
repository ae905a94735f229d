# SPDX-License-Identifier: Apache-2.0
"""An agent that wants out, run inside a container: prints what it tried and what came of it.

Plain Python, for it brings nothing of ours along. The first argument is somebody else's call.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from pathlib import Path

SOCKET = "/run/agentcgroup/agent/agent.sock"
CGROUPS = Path("/sys/fs/cgroup")
WAIT_S = 60.0


def connected() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(WAIT_S)
    made.connect(SOCKET)
    return made


def ask(method: str, params: dict[str, object]) -> str:
    """The kind of error, `ok`, or `closed`."""
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n"
    return exchange(message.encode())


def exchange(message: bytes) -> str:
    with contextlib.closing(connected()) as made:
        try:
            made.sendall(message)
            answer = b""
            while not answer.endswith(b"\n"):
                part = made.recv(65536)
                if not part:
                    return "closed"
                answer += part
        except OSError:
            return "closed"
    told = json.loads(answer.splitlines()[0])
    return str(told["error"]["data"]["kind"]) if "error" in told else "ok"


def write(path: Path, text: str) -> str:
    try:
        path.write_text(text)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "written"


def flood() -> tuple[int, str]:
    """As many connections as it gets, each of which wants to begin a call without a child."""
    held: list[socket.socket] = []
    refused = "none"
    for _ in range(10_000):
        try:
            made = connected()
            made.settimeout(5)
            held.append(made)
            made.sendall(b'{"jsonrpc":"2.0","id":1,"method":"session.get","params":{}}\n')
            answer = made.recv(65536)
        except OSError as error:
            refused = "closed" if error.errno != errno.EMFILE else "emfile"
            break
        if not answer or b'"error"' in answer:
            refused = json.loads(answer)["error"]["data"]["kind"] if answer else "closed"
            break
    count = len(held)
    for made in held:
        made.close()
    return count, refused


def main(victim: str) -> None:
    own = Path("/proc/self/cgroup").read_text()
    below = CGROUPS / own.partition("::")[2].strip().lstrip("/")
    files = {
        str(path): write(path, text)
        for path, text in (
            (below / "memory.max", "max"), (below / "cgroup.freeze", "0"),
            (CGROUPS / "cgroup.procs", str(os.getpid())), (CGROUPS / "memory.max", "max"),
            (CGROUPS / "agent" / "cgroup.procs", str(os.getpid())),
            (CGROUPS / "tools" / "memory.max", "max"),
        )
    }  # fmt: skip
    refusals = {
        method: ask(method, params)
        for method, params in (
            ("tool.end", {"call": victim, "exit_code": 0}),
            ("tool.get", {"call": victim}),
            ("tool.update", {"call": victim, "intent": {"memory": "1M"}}),
            ("session.end", {"session": "neighbour"}),
            ("session.update", {"session": "bad", "memory": "100G"}),
            ("session.create", {"name": "mine"}),
            ("host.status", {}),
        )
    }
    huge = exchange(b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * (3 << 20) + b'"}\n')
    opened, refused = flood()
    print(
        json.dumps(
            {
                "files": files, "place_before": own,
                "place_after": Path("/proc/self/cgroup").read_text(), "victim": refusals,
                "huge": huge, "opened": opened, "refused": refused,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
