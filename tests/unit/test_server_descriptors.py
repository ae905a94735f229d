# SPDX-License-Identifier: Apache-2.0
"""At most one descriptor a message, on its first byte, a pidfd; all others are closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import RawClient, RunningServer, eventually, kind_of, line, open_descriptors

from agentcgroup.daemon.connection_closer import ForeignCloser, received_pidfd
from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.server import RequestContext

BEGIN = line("tool.begin", {"key": "k"})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path)
    server.become(Location("A", "agent"))
    yield server
    server.stop()


@pytest.fixture
def client(running: RunningServer) -> Iterator[RawClient]:
    with RawClient(running.agent_path) as found:
        yield found


@pytest.fixture
def pidfd() -> Iterator[int]:
    fd = os.pidfd_open(os.getppid())
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def no_descriptor_stays(running: RunningServer) -> Iterator[None]:
    before = len(open_descriptors())
    yield
    eventually(lambda: running.stats()["connections"] == 0)
    eventually(lambda: len(open_descriptors()) <= before, 5)


def test_a_pidfd_reaches_the_handler(client: RawClient, pidfd: int) -> None:
    answer = client.request("tool.begin", {"key": "k"}, [pidfd])
    assert answer["result"]["descriptor_pid"] == os.getppid()
    assert client.request("tool.begin", {"key": "k"})["result"]["descriptor_pid"] is None
    client.sock.close()


def test_descriptors_go_with_their_messages(client: RawClient, pidfd: int) -> None:
    """Glued and split reads: the kernel joins what was sent without with what was sent with."""
    own = os.pidfd_open(os.getpid())
    long = line("tool.begin", {"key": "k", "intent": {"command": "x" * 4000}}, 4)
    client.send(line("session.get", None, 1) + line("tool.begin", {"key": "a"}, 2))
    client.send(line("tool.begin", {"key": "b"}, 3), [pidfd])
    client.send(long[:1], [own])
    client.send(long[1:])
    client.send(line("tool.begin", {"key": "c"}, 5))
    answers = {answer["id"]: answer["result"] for answer in (client.read() for _ in range(5))}
    found = {number: answer["descriptor_pid"] for number, answer in answers.items()}
    assert found == {1: None, 2: None, 3: os.getppid(), 4: os.getpid(), 5: None}
    os.close(own)
    client.sock.close()


@pytest.mark.parametrize("count", [2, 3, 253])
def test_surplus_descriptors_are_refused(client: RawClient, pidfd: int, count: int) -> None:
    assert client.kind("tool.begin", {"key": "k"}, [pidfd] * count) == "bad_descriptor"
    assert client.kind("host.version") == "ok"
    client.sock.close()


def test_a_flood_of_other_descriptors_ends_the_sender_alone(
    client: RawClient, running: RunningServer
) -> None:
    with RawClient(running.admin_path) as other:
        with contextlib.suppress(ConnectionError, EOFError):
            for _ in range(50):
                client.send(BEGIN, [0] * 253)
                assert kind_of(client.read()) in ("bad_descriptor", "too_many")
        assert other.kind("host.version") == "ok"
    eventually(lambda: running.stats()["unclosed_descriptors"] == 0)
    with RawClient(running.agent_path) as again:
        assert again.kind("session.get") == "ok"
    client.sock.close()


def test_other_descriptors_are_refused(client: RawClient, tmp_path: Path) -> None:
    import select

    (tmp_path / "f").write_text("")
    read_end, write_end = os.pipe()
    epoll = select.epoll()
    others = [os.open(tmp_path / "f", os.O_RDWR), os.open("/", os.O_PATH), read_end, write_end,
              epoll.fileno(), os.open("/proc/1", os.O_DIRECTORY), client.sock.fileno()]  # fmt: skip
    for fd in others:
        assert not received_pidfd(fd)
        assert client.kind("tool.begin", {"key": "k"}, [fd]) == "bad_descriptor"
    for fd in others[:4] + others[5:6]:
        os.close(fd)
    epoll.close()
    client.sock.close()


def test_methods_without_descriptors_refuse_one(client: RawClient, pidfd: int) -> None:
    assert client.kind("host.version", {}, [pidfd]) == "bad_descriptor"
    assert client.kind("session.get", {}, [pidfd]) == "bad_descriptor"
    client.sock.close()


def test_a_late_descriptor_is_refused(
    client: RawClient, pidfd: int, running: RunningServer
) -> None:
    client.send(BEGIN[:10])
    eventually(lambda: running.stats()["input_bytes"] == 10)
    client.send(BEGIN[10:], [pidfd])
    assert kind_of(client.read()) == "bad_descriptor"
    client.send(BEGIN[:10], [pidfd])
    eventually(lambda: running.stats()["input_bytes"] == 10)
    client.send(BEGIN[10:20], [pidfd])
    client.send(BEGIN[20:])
    assert kind_of(client.read()) == "bad_descriptor"
    client.sock.close()


def test_an_unfinished_message_leaves_no_descriptor(client: RawClient, pidfd: int) -> None:
    client.send(BEGIN[:10], [pidfd])
    client.sock.close()


def test_a_request_cancelled_before_its_first_step_leaves_no_descriptor(
    client: RawClient, running: RunningServer, pidfd: int
) -> None:
    running.handler.behaviour["tool.begin"] = lambda _: asyncio.sleep(60, {})

    async def cancelled_at_once(context: RequestContext) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {}

    running.handler.behaviour["tool.update"] = cancelled_at_once
    for _ in range(50):
        with RawClient(running.agent_path) as other:
            other.send(BEGIN, [pidfd])
    client.sock.close()


def test_close_of_a_lingering_socket_holds_nobody_up(
    client: RawClient, running: RunningServer
) -> None:
    """The last close of a TCP socket with unsent data and SO_LINGER waits for its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        lingering = socket.create_connection(listening.getsockname())
        stuck, _ = listening.accept()
        lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
        lingering.setblocking(False)
        try:
            while True:
                lingering.send(b"x" * 65536)
        except BlockingIOError:
            pass

        def send_the_last_one() -> None:
            client.send(BEGIN, [lingering.fileno()])
            lingering.close()

        # Within the loop, so that the server does not read before it is the last one.
        running.call(send_the_last_one)
        begun = time.monotonic()
        assert kind_of(client.read()) == "bad_descriptor"
        assert client.kind("host.version") == "ok"
        with RawClient(running.agent_path) as other:
            assert other.kind("host.version") == "ok"
        assert time.monotonic() - begun < 2
        eventually(lambda: running.stats()["unclosed_descriptors"] == 0)
        # It really was such a descriptor.
        assert time.monotonic() - begun > 2
        stuck.close()
    client.sock.close()


def test_a_socket_with_unread_descriptors_is_closed_aside() -> None:
    closer = ForeignCloser()
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    read_end, write_end = os.pipe()
    socket.send_fds(theirs, [b"x"], [write_end])
    os.close(write_end)
    closer.close_socket(ours, "uid 1")
    assert ours.fileno() == -1
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    eventually(lambda: closer.total() == 0)
    theirs.close()
    closer.stop()
