# SPDX-License-Identifier: Apache-2.0
"""The server lives, its memory is bounded, and others are served, whatever clients send.

Seeded: AGENTCGROUP_FUZZ_SEED and AGENTCGROUP_FUZZ_SECONDS change what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz_messages import mutated, valid
from server_support import RawClient, RunningServer, eventually, kind_of, line, open_descriptors

from agentcgroup.daemon.identity import Location
from agentcgroup.protocol.codec import MAX_MESSAGE_BYTES

SEED = int(os.environ.get("AGENTCGROUP_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("AGENTCGROUP_FUZZ_SECONDS", "5"))
# Generous: this machine may be busy with other tests. A blocked loop takes for ever.
ANSWER_BOUND_S = 5.0
MEMORY_BOUND_BYTES = 96 << 20


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path)
    server.become(Location("A", "agent"))
    server.registry.calls.update({"c1": "A", "c9": "B"})
    server.handler.behaviour["tool.list"] = lambda _: {"filler": "x" * 100_000}
    server.handler.behaviour["tool.begin"] = lambda _: asyncio.sleep(0.01, {})
    yield server
    server.stop()


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Bystander:
    """Somebody else, asking all the time; remembers the longest wait."""

    def __init__(self, path: str) -> None:
        self._stop = threading.Event()
        self._client = RawClient(path)
        self.longest_s = 0.0
        self.answers = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.sock.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            if self._client.kind("session.get") == "ok":
                self.answers += 1
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            time.sleep(0.005)


class Attacker:
    """Every move is one way to be a bad client. Connections of its own, never waits long."""

    def __init__(self, path: str, rng: random.Random) -> None:
        self._path = path
        self._rng = rng
        self._held: list[socket.socket] = []
        self._foreign = [os.pidfd_open(os.getpid()), os.open("/dev/null", os.O_RDWR), *os.pipe()]
        self._epoll = select.epoll()
        self._foreign.append(self._epoll.fileno())
        self.moves: list[Callable[[socket.socket], None]] = [
            self.mutations, self.mutations, self.mutations, self.split, self.byte_by_byte,
            self.descriptors, self.unfinished, self.huge, self.never_reads, self.half_closed,
            self.abandoned, self.reset,
        ]  # fmt: skip

    def move(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ANSWER_BOUND_S)
            with contextlib.suppress(ConnectionError):
                sock.connect(self._path)
                self._rng.choice(self.moves)(sock)

    def close(self) -> None:
        for sock in self._held:
            sock.close()
        self._epoll.close()
        for fd in self._foreign[:-1]:
            os.close(fd)

    def _line(self) -> bytes:
        return mutated(self._rng, valid(self._rng))

    def _hold(self, sock: socket.socket) -> None:
        self._held.append(sock.dup())
        if len(self._held) > 100:
            self._held.pop(self._rng.randrange(100)).close()

    def mutations(self, sock: socket.socket) -> None:
        for _ in range(20):
            sock.sendall(self._line())
            if select.select([sock], [], [], 0)[0]:
                sock.recv(1 << 20)

    def split(self, sock: socket.socket) -> None:
        data = b"".join(self._line() for _ in range(5))
        while data:
            size = self._rng.randrange(1, 400)
            sock.send(data[:size])
            data = data[size:]

    def byte_by_byte(self, sock: socket.socket) -> None:
        for byte in line("session.get"):
            sock.send(bytes([byte]))
        assert sock.recv(4096)

    def descriptors(self, sock: socket.socket) -> None:
        for _ in range(5):
            sent = self._rng.choices(self._foreign, k=self._rng.choice([1, 1, 2, 5, 253]))
            data = self._line()
            cut = self._rng.choice([1, len(data), self._rng.randrange(1, len(data) + 1)])
            if self._rng.random() < 0.3:
                sock.sendall(data[:cut])
                data = data[cut:] or b"\n"
                cut = 1
            socket.send_fds(sock, [data[:cut]], sent)
            if self._rng.random() < 0.9:
                sock.sendall(data[cut:])

    def unfinished(self, sock: socket.socket) -> None:
        sock.sendall(b"x" * self._rng.randrange(200_000))
        self._hold(sock)

    def huge(self, sock: socket.socket) -> None:
        sock.sendall(b"x" * (MAX_MESSAGE_BYTES + 100_000) + b"\n")

    def never_reads(self, sock: socket.socket) -> None:
        with contextlib.suppress(TimeoutError):
            sock.settimeout(0.2)
            sock.sendall(line("tool.list") * 200)
        self._hold(sock)

    def half_closed(self, sock: socket.socket) -> None:
        sock.sendall(line("tool.begin", {"key": "k"}) + line("host.version"))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    def abandoned(self, sock: socket.socket) -> None:
        sock.sendall(line("tool.begin", {"key": "k"}) * 40)

    def reset(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(self._line()[:20])


def test_mutated_messages_and_bad_clients(
    running: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(SEED)
    attacker = Attacker(running.agent_path, rng)
    attacker.move()
    before_fds, before_bytes = len(open_descriptors()), rss_bytes()
    moves = 0
    with Bystander(running.admin_path) as bystander:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            attacker.move()
            moves += 1
        attacker.close()
        eventually(lambda: running.stats()["connections"] == 1)
    stats = running.stats()
    print(f"seed {SEED}: {moves} moves, longest wait {bystander.longest_s:.3f} s, {stats}")
    assert moves > 20 and bystander.answers > 20
    assert bystander.longest_s < ANSWER_BOUND_S
    assert rss_bytes() - before_bytes < MEMORY_BOUND_BYTES
    eventually(lambda: running.stats()["unclosed_descriptors"] == 0)
    assert running.stats()["input_bytes"] == running.stats()["output_bytes"] == 0
    eventually(lambda: len(open_descriptors()) <= before_fds)
    # Nothing that a client sent was a fault of the server's.
    assert stats["failed_requests"] == 0
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


CROWD = """
import socket, sys
crowd = [socket.socket(socket.AF_UNIX) for _ in range(1000)]
for client in crowd:
    client.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


def test_a_thousand_idle_connections(running: RunningServer) -> None:
    before_bytes = rss_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", CROWD, running.agent_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as crowd:  # fmt: skip
        assert crowd.stdout is not None and crowd.stdin is not None
        assert crowd.stdout.readline() == b"connected\n"
        eventually(lambda: running.stats()["connections"] == 1000)
        assert running.stats()["refused_connections"] == 0
        used_bytes = rss_bytes() - before_bytes
        with Bystander(running.agent_path) as bystander:
            eventually(lambda: bystander.answers >= 50)
        print(f"{used_bytes // 1000} bytes a connection, longest {bystander.longest_s:.3f} s")
        assert used_bytes < 32 << 20
        assert bystander.longest_s < ANSWER_BOUND_S
        crowd.stdin.close()
    eventually(lambda: running.stats()["connections"] == 0)


def test_slow_readers_and_hoarders_hold_little(running: RunningServer) -> None:
    """50 of each: unread answers, unfinished lines. The bounds hold, a bystander is served."""
    limits = running.server.limits
    before_bytes = rss_bytes()
    with contextlib.ExitStack() as stack, Bystander(running.admin_path) as bystander:
        for _ in range(50):
            reader = stack.enter_context(RawClient(running.agent_path, timeout_s=0.3))
            hoarder = stack.enter_context(RawClient(running.agent_path, timeout_s=0.3))
            with contextlib.suppress(ConnectionError, TimeoutError):
                reader.send(line("tool.list") * 300)
            with contextlib.suppress(ConnectionError, TimeoutError):
                hoarder.send(b"x" * (MAX_MESSAGE_BYTES - 1))
            stats = running.stats()
            assert stats["input_bytes"] <= limits.session.input_bytes
            assert stats["output_bytes"] <= limits.session.output_bytes
        assert stats["slow_readers"] > 0
        assert bystander.longest_s < ANSWER_BOUND_S
        # Administrators' and others' accounts are not touched by this session's.
        with RawClient(running.admin_path) as admin:
            assert kind_of(admin.request("host.status")) == "ok"
    assert rss_bytes() - before_bytes < MEMORY_BOUND_BYTES
