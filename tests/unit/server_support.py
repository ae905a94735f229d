# SPDX-License-Identifier: Apache-2.0
"""A real server on real sockets with a registry and a handler that tests command."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentcgroup.cgroupfs.pidfd import pid_of
from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.server import RequestContext, Server, ServerLimits

TIMEOUT_S = 20.0


class FakeRegistry:
    """Sessions by name: which cgroup paths, outside agents and calls are theirs."""

    def __init__(self) -> None:
        self.locations: dict[str, Location] = {}
        self.outside: dict[tuple[int, int], str] = {}
        self.calls: dict[str, str] = {}

    def locate(self, cgroup_path: str) -> Location | None:
        return self.locations.get(cgroup_path)

    def any_outside(self) -> bool:
        return bool(self.outside)

    def outside_session(self, pid: int, start_time: int) -> str | None:
        return self.outside.get((pid, start_time))

    def session_of_call(self, call: str) -> str | None:
        return self.calls.get(call)


class FakeHandler:
    """Answers with what it saw; `behaviour` replaces the answer of a method."""

    def __init__(self) -> None:
        self.contexts: list[RequestContext] = []
        self.behaviour: dict[str, Callable[[RequestContext], Any]] = {}

    async def __call__(self, context: RequestContext) -> str:
        return json.dumps(await self._answer(context), allow_nan=False)

    async def _answer(self, context: RequestContext) -> Any:
        self.contexts.append(context)
        behaviour = self.behaviour.get(context.method.name)
        pid = None
        if context.descriptor is not None:
            pid = pid_of(context.descriptor)
            os.close(context.descriptor)
        if behaviour is not None:
            answer = behaviour(context)
            return await answer if asyncio.iscoroutine(answer) else answer
        who = context.identity
        return {
            "method": context.method.name, "role": who.role.value, "session": context.session,
            "call": who.call, "pid": who.pid, "descriptor_pid": pid,
        }  # fmt: skip


class RunningServer:
    """The server's loop runs in a thread of its own."""

    def __init__(self, directory: Path, limits: ServerLimits | None = None) -> None:
        self.registry = FakeRegistry()
        self.handler = FakeHandler()
        self.agent_path = str(directory / "agent" / "agent.sock")
        self.admin_path = str(directory / "admin.sock")
        self.server = Server(self.handler, self.registry, limits)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        try:
            self.run(self.server.start(self.agent_path, self.admin_path))
        except BaseException:
            self._stop_loop()
            raise

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)

    def call(self, function: Callable[[], Any]) -> Any:
        """`function()` in the server's loop."""

        async def within() -> Any:
            return function()

        return self.run(within())

    def become(self, location: Location | None) -> None:
        """Let the registry find this very test process there."""
        path = own_cgroup_path()
        if location is None:
            self.registry.locations.pop(path, None)
        else:
            self.registry.locations[path] = location

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self.call(self.server.stats)
        return found

    def stop(self) -> None:
        try:
            self.run(self.server.close())
        finally:
            self._stop_loop()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT_S)
        self.loop.close()


class RawClient:
    """Sends exactly the bytes and descriptors it is told to."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(path)
        self._input = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes, descriptors: list[int] | None = None) -> None:
        if descriptors:
            sent = socket.send_fds(self.sock, [data], descriptors)
            assert sent > 0
            data = data[sent:]
        self.sock.sendall(data)

    def read(self) -> dict[str, Any]:
        """The next message; EOFError at the end."""
        while b"\n" not in self._input:
            chunk = self.sock.recv(65536)
            if not chunk:
                raise EOFError
            self._input += chunk
        line, self._input = self._input.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        descriptors: list[int] | None = None,
    ) -> dict[str, Any]:
        self.send(line(method, params), descriptors)
        return self.read()

    def kind(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        descriptors: list[int] | None = None,
    ) -> str:
        """The error's kind, or "ok"."""
        return kind_of(self.request(method, params, descriptors))


def line(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
    return json.dumps(message).encode() + b"\n"


def kind_of(answer: dict[str, Any]) -> str:
    return answer["error"]["data"]["kind"] if "error" in answer else "ok"


def own_cgroup_path() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(text[3:] for text in lines if text.startswith("0::"))


def open_descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


def eventually(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
