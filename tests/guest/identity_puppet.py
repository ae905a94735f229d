# SPDX-License-Identifier: Apache-2.0
"""A process that does what the test says, from wherever the test put it.

One JSON object a line in, one out. Standard library only: it runs as anybody, in
namespaces of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 60.0
_connection: socket.socket | None = None
_children: dict[str, tuple[int, int]] = {}


def connect(path: str) -> dict[str, Any]:
    global _connection  # noqa: PLW0603
    if _connection is not None:
        _connection.close()
    _connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _connection.settimeout(TIMEOUT_S)
    _connection.connect(path)
    return {}


def request(method: str, params: dict[str, Any], fd: int | str | None = None) -> dict[str, Any]:
    send(method, params, fd)
    return answer()


def send(method: str, params: dict[str, Any], fd: int | str | None = None) -> dict[str, Any]:
    """`fd`: an inherited descriptor, or the name of a child."""
    assert _connection is not None
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n"
    number = _children[fd][1] if isinstance(fd, str) else fd
    socket.send_fds(_connection, [line.encode()], [] if number is None else [number])
    return {}


def answer() -> dict[str, Any]:
    assert _connection is not None
    data = b""
    while not data.endswith(b"\n"):
        chunk = _connection.recv(65536)
        if not chunk:
            return {"closed": True}
        data += chunk
    found: dict[str, Any] = json.loads(data)
    return found


def child(name: str, uid: int | None = None) -> dict[str, Any]:
    """A waiting child, as another user if `uid` is given."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        if uid is not None:
            os.setuid(uid)
        os.close(tell)
        while True:
            signal.pause()
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    _children[name] = (pid, os.pidfd_open(pid))
    return {"pid": pid}


def grandchild(name: str) -> dict[str, Any]:
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    _children[name] = (pid, os.pidfd_open(pid))
    return {"pid": pid}


def kill(name: str, reap: bool = True) -> dict[str, Any]:
    pid, _ = _children[name]
    os.kill(pid, signal.SIGKILL)
    if reap:
        os.waitpid(pid, 0)
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return {}


def heir() -> dict[str, Any]:
    """Leave the connection to a child and end; the child goes on in our place."""
    global _children  # noqa: PLW0603
    if os.fork():
        os._exit(0)
    _children = {}
    return {"pid": os.getpid()}


def write(path: str, text: str) -> dict[str, Any]:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return {}


def work(count: int) -> dict[str, Any]:
    """Fork and exec `count` programs; the longest one's seconds."""
    longest_s = 0.0
    for _ in range(count):
        begun = time.monotonic()
        subprocess.run(["true"], check=True)
        longest_s = max(longest_s, time.monotonic() - begun)
    return {"longest_s": longest_s}


DEEDS: dict[str, Callable[..., dict[str, Any]]] = {
    deed.__name__: deed
    for deed in (connect, request, send, answer, child, grandchild, kill, heir, write, work)
}


def main() -> None:
    print(json.dumps({"pid": os.getpid(), "uid": os.getuid()}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        try:
            said = DEEDS[order.pop("do")](**order)
        except OSError as error:
            said = {"errno": error.errno, "error": str(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
