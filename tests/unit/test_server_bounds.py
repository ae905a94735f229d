# SPDX-License-Identifier: Apache-2.0
"""What a peer can make the daemon hold is bounded, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server_support import RawClient, RunningServer, eventually, kind_of, line, open_descriptors

from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.server import ServerLimits
from agentcgroup.daemon.server_limits import Account, Accounts, Caps

SMALL = ServerLimits(
    everybody=Caps(20, 100_000, 5_000_000),
    session=Caps(8, 50_000, 3_000_000),
    strangers=Caps(6, 20_000, 500_000),
    stranger_uid=Caps(4, 10_000, 300_000),
    admin=Caps(8, 50_000, 3_000_000),
    output_bytes=1_000_000,
    requests_in_flight=3,
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path, SMALL)
    yield server
    server.stop()


def test_accounts_charge_every_link_or_none() -> None:
    top = Account("top", Caps(3, 100, 100))
    left, right = (Account(name, Caps(2, 80, 80), top) for name in ("left", "right"))
    assert [left.admit(), left.admit(), left.admit()] == [True, True, False]
    assert [right.admit(), right.admit()] == [True, False]
    assert (left.connections, right.connections, top.connections) == (2, 1, 3)
    assert left.charge_input(60) and not right.charge_input(60)
    assert (right.input_bytes, top.input_bytes) == (0, 60)
    assert right.charge_input(40) and left.charge_input(-60)
    assert top.input_bytes == 40
    left.leave()
    assert right.admit()


def test_many_uids_of_strangers_share_one_bound() -> None:
    accounts = Accounts(SMALL, 1000)
    admitted = sum(accounts.find(admin=False, session=None, uid=uid).admit() for uid in range(100))
    assert admitted == SMALL.strangers.connections
    assert accounts.find(admin=False, session="A", uid=5).admit()
    assert accounts.find(admin=True, session=None, uid=0).admit()


def test_tools_do_not_use_up_what_their_agent_needs() -> None:
    accounts = Accounts(SMALL, 1000)
    tools = accounts.find(admin=False, session="A", uid=0, inside=True)
    assert [tools.admit() for _ in range(9)].count(True) == SMALL.session.connections
    assert tools.charge_input(SMALL.session.input_bytes)
    agent = accounts.find(admin=False, session="A", uid=0)
    assert agent.admit() and agent.charge_input(1000)


def test_unused_accounts_are_forgotten() -> None:
    accounts = Accounts(SMALL, 1000)
    account = accounts.find(admin=False, session="A", uid=0)
    account.admit()
    accounts.forget_unused(account)
    assert accounts.find(admin=False, session="A", uid=1) is account
    account.leave()
    accounts.forget_unused(account)
    assert accounts.find(admin=False, session="A", uid=1) is not account


def test_connections_are_bounded_and_come_back(running: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(RawClient(running.agent_path)) for _ in range(4)]
        assert [client.kind("host.version") for client in held] == ["ok"] * 4
        surplus = stack.enter_context(RawClient(running.agent_path))
        answer = surplus.read()
        assert (kind_of(answer), answer["error"]["data"]["value"]) == (
            "too_many", f"'uid {os.getuid()}'")  # fmt: skip
        with pytest.raises((EOFError, ConnectionError)):
            surplus.read()
        # Neither a session nor the administrators pay for the strangers.
        running.become(Location("A", "agent"))
        for path in (running.agent_path, running.admin_path):
            client = stack.enter_context(RawClient(path))
            assert client.kind("session.get") == "ok"
        running.become(None)
        held[0].sock.close()
        eventually(lambda: running.stats()["connections"] == 5)
        client = stack.enter_context(RawClient(running.agent_path))
        assert client.kind("host.version") == "ok"


def test_unfinished_messages_are_bounded(running: RunningServer) -> None:
    with RawClient(running.agent_path) as first, RawClient(running.agent_path) as second:
        first.send(b"x" * 8_000)
        eventually(lambda: running.stats()["input_bytes"] == 8_000)
        second.send(b"x" * 8_000)
        assert kind_of(second.read()) == "too_many"
        first.send(b"\n")
        assert kind_of(first.read()) == "parse_error"
        assert running.stats()["input_bytes"] == 0


def test_who_does_not_read_is_cut_off(running: RunningServer) -> None:
    running.become(Location("A", "agent"))
    running.handler.behaviour["tool.list"] = lambda _: {"filler": "x" * 400_000}
    with RawClient(running.agent_path) as client, RawClient(running.agent_path) as other:
        with contextlib.suppress(BrokenPipeError):
            for number in range(50):
                client.send(line("tool.list", {}, number))
        eventually(lambda: running.stats()["slow_readers"] == 1)
        eventually(lambda: running.stats()["connections"] == 1)
        assert running.stats()["output_bytes"] == 0
        assert other.kind("host.version") == "ok"


def test_requests_in_flight_are_bounded(running: RunningServer) -> None:
    running.become(Location("A", "agent"))
    running.handler.behaviour["tool.begin"] = lambda _: asyncio.sleep(60, {})
    with RawClient(running.agent_path) as client:
        for number in range(4):
            client.send(line("tool.begin", {"key": str(number)}, number))
        answer = client.read()
        assert (answer["id"], kind_of(answer)) == (3, "too_many")


def test_a_rush_of_requests_leaves_the_others_their_turn(running: RunningServer) -> None:
    with RawClient(running.agent_path) as busy, RawClient(running.agent_path) as other:
        order: list[str] = []
        running.become(Location("A", "agent"))

        def note(name: str) -> dict[str, str]:
            order.append(name)
            return {}

        running.handler.behaviour["session.get"] = lambda _: note("busy")
        running.handler.behaviour["session.budget"] = lambda _: note("other")

        def both() -> None:
            # Inside the loop: both are readable when it turns next.
            busy.send(line("session.get") * 200)
            other.send(line("session.budget"))

        running.call(both)
        assert kind_of(other.read()) == "ok"
        assert order.index("other") <= 2 * SMALL.requests_per_turn
        for _ in range(200):
            busy.read()


CROWD = """
import socket, sys, time
crowd = [socket.socket(socket.AF_UNIX) for _ in range(60)]
for client in crowd:
    client.connect(sys.argv[1])
print("connected", flush=True)
time.sleep(60)
"""


def test_out_of_descriptors_clients_are_turned_away(tmp_path: Path) -> None:
    roomy = Caps(1000, 99_999, 99_999)
    running = RunningServer(
        tmp_path, replace(SMALL, stranger_uid=roomy, strangers=roomy, everybody=roomy)
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with RawClient(running.agent_path) as before:
        assert before.kind("host.version") == "ok"
        crowd = subprocess.Popen(
            [sys.executable, "-c", CROWD, running.agent_path], stdout=subprocess.PIPE
        )
        assert crowd.stdout is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_descriptors()) + 20, limits[1]))
        try:
            assert crowd.stdout.readline() == b"connected\n"
            eventually(lambda: running.stats()["refused_connections"] > 0)
            assert before.kind("host.version") == "ok"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            crowd.kill()
            crowd.communicate()
        eventually(lambda: running.stats()["connections"] == 1)
    with RawClient(running.agent_path) as after:
        assert after.kind("host.version") == "ok"
    running.stop()
