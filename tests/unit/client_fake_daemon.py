# SPDX-License-Identifier: Apache-2.0
"""A daemon for tests of clients: real sockets, real descriptors, scripted answers.

It keeps the protocol's promises that clients build on (idempotent begin, resume by key,
stored outcomes) but enforces nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentcgroup.protocol.codec import LineBuffer, decode_request, encode, error, result
from agentcgroup.protocol.errors import Kind, ProtocolError, error_object
from agentcgroup.protocol.messages import METHODS, Access
from agentcgroup.types.validation import parse

Handler = Callable[[dict[str, Any], int | None], dict[str, Any]]


class DropError(Exception):
    """Raised by a handler: close the connection without an answer."""


class FakeDaemon:
    """`requests` is what arrived: (socket, method, params, pid of the pidfd)."""

    def __init__(self, folder: Path, *, admin: bool = True) -> None:
        (folder / "agent").mkdir(parents=True, exist_ok=True)
        self.agent_path = str(folder / "agent" / "agent.sock")
        self.admin_path = str(folder / "admin.sock")
        self.requests: list[tuple[str, str, dict[str, Any], int | None]] = []
        self.handlers: dict[str, Handler] = {}
        self.keys: dict[str, str] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.connections = 0
        self.notifications: list[dict[str, Any]] = []
        self._admin = admin
        self._lock = threading.Lock()
        self._streams: list[socket.socket] = []
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        places = [("agent", self.agent_path)]
        if self._admin:
            places.append(("admin", self.admin_path))
        for name, path in places:
            Path(path).unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(path)
            listener.listen()
            # A close alone does not wake accept(): look at the listener now and then.
            listener.settimeout(0.05)
            self._listeners.append(listener)
            self._spawn(self._accept, name, listener)

    def stop(self) -> None:
        for each in (*self._listeners, *self._streams):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)
        self._listeners, self._streams, self._threads = [], [], []

    def methods(self) -> list[str]:
        return [method for _, method, _, _ in self.requests if method != "host.version"]

    def params(self, method: str) -> list[dict[str, Any]]:
        return [params for _, name, params, _ in self.requests if name == method]

    def refuse(self, method: str, kind: Kind, *, once: bool = False, **details: Any) -> None:
        def refusal(_params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
            if once:
                del self.handlers[method]
            raise ProtocolError(kind, f"cannot do {method}", **details)

        self.handlers[method] = refusal

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            self._streams.append(stream)
            self._spawn(self._serve, name, stream)

    def _serve(self, name: str, stream: socket.socket) -> None:
        buffer = LineBuffer()
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(stream, 65536, 4)
            except OSError:
                return
            try:
                if not data:
                    return
                for line in buffer.feed(data):
                    stream.sendall(self._answer(name, line, fds[0] if fds else None))
                    for params in self.notifications if b"events.subscribe" in line else ():
                        event = {"jsonrpc": "2.0", "method": "event", "params": params}
                        stream.sendall(encode(event))
            except DropError:
                stream.shutdown(socket.SHUT_RDWR)
                return
            except OSError:  # the client has gone
                return
            finally:
                for fd in fds:
                    os.close(fd)

    def _answer(self, name: str, line: bytes, fd: int | None) -> bytes:
        request = decode_request(line)
        method = METHODS[request.method]
        assert fd is None or method.descriptor
        with self._lock:
            self.requests.append((name, request.method, request.params, pid_of(fd)))
        try:
            if method.access is Access.ADMIN and name != "admin":
                raise ProtocolError(Kind.NOT_PERMITTED, "administrators only")
            parse(method.params, request.params)
            handler = self.handlers.get(request.method) or getattr(
                self, "_" + request.method.replace(".", "_")
            )
            answer = handler(request.params, fd)
            method.result.model_validate(answer)
        except DropError:
            raise
        except Exception as problem:
            return error(request.id, error_object(problem))
        return result(request.id, json.dumps(answer))

    # What a daemon would say

    def _host_version(self, _params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        return {"version": "0.1.0", "protocol": 1}

    def _tool_begin(self, params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        call = self.keys.setdefault(params["key"], f"c-{len(self.keys) + 1}")
        limits = {"memory_high_bytes": 1 << 30}
        return {"call": call, "session": "s", "limits": limits, "waited_ms": 1.5}

    def _tool_update(self, params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        return {"call": params["call"], "limits": {}}

    def _tool_end(self, params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        status = {k: v for k, v in params.items() if k != "call"}
        outcome = {
            "call": params["call"], "session": "s", "peak_memory_bytes": 4096, **status,
            "reason": "failed" if any(status.values()) else "completed",
        }  # fmt: skip
        return {"outcome": self.outcomes.setdefault(params["call"], outcome)}

    def _tool_resume(self, params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        key = params.pop("key")
        if key not in self.keys:
            raise ProtocolError(Kind.NOT_FOUND, "no call has this key", field="key", value=key)
        call: dict[str, Any] = {"call": self.keys[key], "session": "s", "state": "running"}
        if params:
            ended = self._tool_end({"call": call["call"], **params}, None)
            call |= {"state": "ended", **ended}
        return {"call": call}

    def _tool_get(self, params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        outcome = self.outcomes.get(params.get("call", ""))
        if outcome is None:
            raise ProtocolError(Kind.NOT_FOUND, "no such call", field="call", remedy="list them")
        return {"call": {"call": params["call"], "session": "s", "state": "ended",
                         "outcome": outcome}}  # fmt: skip

    def _events_subscribe(self, _params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        return {"subscribed": True}


def session_info(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name, "kind": "inside", "priority": "normal", "mode": "enforce",
        "containment": "advisory", "containment_reason": "runs as root",
        "cgroup": f"/tree/{name}", **fields,
    }  # fmt: skip


def pid_of(pidfd: int | None) -> int | None:
    if pidfd is None:
        return None
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
    match = re.search(r"^Pid:\s*(-?\d+)", text, re.M)
    assert match, "not a pidfd"
    return int(match[1])
