# SPDX-License-Identifier: Apache-2.0
"""A fake daemon for the shim's tests: a real Unix socket that answers by method."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SHIM = Path(__file__).parents[2] / "sandboxes" / "shim"
BUILDS = ("static", "sanitizers")
WAIT_S = 10.0


def built(name: str, build: str) -> Path:
    """One of the C programs, in one of BUILDS."""
    subprocess.run(["make", "-s", "-C", SHIM, "all", "check"], check=True)
    return SHIM / ".output" / ("." if build == "static" else "check") / name


def outcome(reason: str = "completed", message: str = "", **more: Any) -> dict[str, Any]:
    return {"call": "c1", "session": "s", "reason": reason, "message": message, **more}


def refusal(kind: str, message: str = "no", remedy: str = "") -> dict[str, Any]:
    data = {"kind": kind, "field": "", "value": None, "remedy": remedy}
    return {"error": {"code": -32000, "message": message, "data": data}}


BEGUN = {"result": {"call": "c1", "session": "s", "limits": {}}}
ENDED = {"result": {"outcome": outcome()}}
# What a daemon may do instead of answering.
SILENT: dict[str, Any] = {"do": "nothing"}
BREAK: dict[str, Any] = {"do": "close"}

Answer = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]


class FakeDaemon:
    """Answers by method; a list is used up one by one, its last element stays."""

    def __init__(
        self, path: Path, answers: dict[str, Answer | list[Answer]], noise: bytes = b""
    ) -> None:
        self.path = path
        self.noise = noise  # around every answer, which then comes in two pieces
        self.answers = {"host.version": {"result": {"version": "0", "protocol": 1}}, **answers}
        self.requests: list[dict[str, Any]] = []
        self.pids: list[int] = []  # of the pidfds that came
        self._connections: list[socket.socket] = []
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """As a daemon that is killed: everything closes, the socket's file stays."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)

    def methods(self) -> list[str]:
        return [request["method"] for request in self.requests]

    def wait_for(self, method: str, count: int = 1) -> None:
        with self._changed:
            seen = self._changed.wait_for(lambda: self.methods().count(method) >= count, WAIT_S)
        assert seen, self.requests

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        with connection, suppress(OSError):
            while True:
                data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
                self.pids += [_pid_of(fd) for fd in fds]
                if not data:
                    return
                buffer += data
                while b"\n" in buffer:
                    line, buffer = buffer.split(b"\n", 1)
                    reply = self._reply(json.loads(line))
                    if reply.get("do") == "close":
                        return
                    if reply.get("do") != "nothing":
                        self._send(connection, json.dumps(reply).encode() + b"\n")

    def _send(self, connection: socket.socket, line: bytes) -> None:
        if self.noise:
            connection.sendall(self.noise + line[:20])
            time.sleep(0.01)
            line = line[20:] + self.noise
        connection.sendall(line)

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.answers[request["method"]]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        reply = answer(request) if callable(answer) else answer
        return {"jsonrpc": "2.0", "id": request["id"], **reply}


def _pid_of(fd: int) -> int:
    info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    os.close(fd)
    return int(info.split("\nPid:\t")[1].split()[0])


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
