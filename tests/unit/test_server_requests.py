# SPDX-License-Identifier: Apache-2.0
"""Requests and answers over real sockets: correlation, errors, cancellation, events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import RawClient, RunningServer, eventually, kind_of, line

from agentcgroup.daemon.identity import Location
from agentcgroup.daemon.server import RequestContext, Server
from agentcgroup.errors import ConfigError, InvalidValueError
from agentcgroup.protocol import codec
from agentcgroup.protocol.errors import Kind, ProtocolError
from agentcgroup.protocol.messages import METHODS, ToolBegin

AGENT = Location("A", "agent")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def client(running: RunningServer) -> Iterator[RawClient]:
    running.become(AGENT)
    with RawClient(running.agent_path) as found:
        yield found


def test_sockets_have_their_modes(running: RunningServer) -> None:
    modes = [stat.S_IMODE(Path(p).stat().st_mode) for p in (running.agent_path, running.admin_path)]
    assert modes == [0o666, 0o660]


def test_a_stranger_gets_the_version_only(running: RunningServer) -> None:
    with RawClient(running.agent_path) as client:
        for method in METHODS:
            expected = "ok" if method == "host.version" else "no_session"
            assert client.kind(method) == expected


def test_the_agents_socket_has_no_administrative_method(client: RawClient) -> None:
    for name, method in METHODS.items():
        if method.access == "admin":
            assert client.kind(name) == "not_permitted"


def test_the_administrators_socket_serves_all(running: RunningServer) -> None:
    with RawClient(running.admin_path) as client:
        assert client.request("host.status")["result"]["role"] == "admin"
        assert client.request("session.get", {"session": "B"})["result"]["session"] == "B"


def test_a_handler_sees_who_and_what(client: RawClient, running: RunningServer) -> None:
    answer = client.request("tool.begin", {"key": "k", "intent": {"memory": "1G"}})
    assert answer["result"]["pid"] == os.getpid()
    assert answer["result"]["session"] == "A"
    params = running.handler.contexts[-1].params
    assert isinstance(params, ToolBegin) and params.intent.memory == 1 << 30


def test_identity_is_asked_for_every_request(running: RunningServer) -> None:
    with RawClient(running.agent_path) as client:
        assert client.kind("session.get") == "no_session"
        running.become(AGENT)
        assert client.kind("session.get") == "ok"
        running.become(Location("A", "leaf", "c1"))
        assert client.kind("session.get") == "not_permitted"
        assert client.request("tool.get")["result"]["call"] == "c1"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{\n", "parse_error"),
        (b"\n", "parse_error"),
        (b"\xff\xfe\n", "parse_error"),
        (b"[" * 5000 + b"\n", "parse_error"),
        (b'{"jsonrpc":"2.0","id":1,"method":"host.version","params":{"a":1e999}}\n', "parse_error"),
        (b"[]\n", "invalid_request"),
        (b'{"id":1}\n', "invalid_request"),
        (b'{"jsonrpc":"2.0","id":true,"method":"host.version"}\n', "invalid_request"),
        (b'{"jsonrpc":"2.0","id":1,"method":"host.version","params":[]}\n', "invalid_request"),
        (line("no.such"), "method_not_found"),
        (line("session.get", {"nmae": 1}), "invalid_params"),
        (line("tool.begin", {"key": "k", "intent": {"memory": "2GBs"}}), "invalid_params"),
        (line("tool.begin", {"key": "k", "intent": {"memory": -1}}), "invalid_params"),
    ],
)
def test_bad_messages_are_answers(client: RawClient, data: bytes, kind: str) -> None:
    client.send(data)
    answer = client.read()
    assert kind_of(answer) == kind
    assert answer["error"]["data"]["remedy"]
    assert client.kind("host.version") == "ok"


def test_deep_values_are_refused_without_a_fault(
    client: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    deep = b"[" * 900 + b"]" * 900
    client.send(
        b'{"jsonrpc":"2.0","id":5,"method":"session.get","params":{"session":' + deep + b"}}\n"
    )
    assert kind_of(client.read()) in ("invalid_params", "parse_error")
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_an_error_carries_the_id_where_there_is_one(client: RawClient) -> None:
    client.send(b'{"jsonrpc":"2.0","id":"x","method":"host.version","params":[]}\n')
    assert client.read()["id"] == "x"


def test_a_message_too_large_ends_the_connection(client: RawClient) -> None:
    client.send(b"x" * (codec.MAX_MESSAGE_BYTES + 10))
    answer = client.read()
    assert (kind_of(answer), answer["id"]) == ("message_too_large", None)
    with pytest.raises((EOFError, ConnectionError)):
        client.read()


def test_byte_by_byte_is_the_same_message(client: RawClient) -> None:
    for byte in line("session.get"):
        client.send(bytes([byte]))
    assert kind_of(client.read()) == "ok"


def test_notifications_get_no_answer(client: RawClient, running: RunningServer) -> None:
    client.send(b'{"jsonrpc":"2.0","method":"session.get"}\n' + line("host.version", None, "v"))
    assert client.read()["id"] == "v"
    assert running.handler.contexts[0].method.name == "session.get"


def test_answers_come_in_order_of_completion(client: RawClient, running: RunningServer) -> None:
    gate = asyncio.Event()

    async def wait(_: RequestContext) -> dict[str, Any]:
        await gate.wait()
        return {"late": True}

    running.handler.behaviour["tool.begin"] = wait
    client.send(line("tool.begin", {"key": "k"}, 1) + line("host.version", None, 2))
    assert client.read()["id"] == 2
    running.call(gate.set)
    answer = client.read()
    assert (answer["id"], answer["result"]) == (1, {"late": True})


def test_the_end_of_a_connection_cancels_its_requests(running: RunningServer) -> None:
    running.become(AGENT)
    seen: list[str] = []
    closed = threading.Event()

    async def wait(context: RequestContext) -> dict[str, Any]:
        context.connection.on_close(closed.set)
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # The peer's pidfd is still there to be used.
            os.fstat(context.identity.pidfd)
            assert not context.connection.alive
            seen.append("cancelled")
            raise
        return {}

    running.handler.behaviour["tool.begin"] = wait
    with RawClient(running.agent_path) as client:
        client.send(line("tool.begin", {"key": "k"}))
        eventually(lambda: seen == ["begun"])
    eventually(lambda: seen == ["begun", "cancelled"])
    assert closed.wait(5)
    eventually(lambda: running.stats()["connections"] == 0)


def test_a_callback_after_the_end_is_called_at_once(running: RunningServer) -> None:
    running.become(AGENT)
    with RawClient(running.agent_path) as client:
        client.request("session.get")
    connection = running.handler.contexts[0].connection
    eventually(lambda: not connection.alive)
    called: list[int] = []
    running.call(lambda: connection.on_close(lambda: called.append(1)))
    assert called == [1]
    assert not running.call(lambda: connection.notify("event", {}))


def test_half_closed_clients_get_their_answers(client: RawClient, running: RunningServer) -> None:
    running.handler.behaviour["tool.list"] = lambda _: {"filler": "x" * 3_000_000}
    client.send(line("tool.list"))
    eventually(lambda: running.stats()["output_bytes"] > 0)
    client.sock.shutdown(1)
    assert len(client.read()["result"]["filler"]) == 3_000_000
    eventually(lambda: running.stats()["connections"] == 0)
    assert running.stats()["output_bytes"] == 0


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ProtocolError(Kind.OVER_BUDGET, "too much", field="memory", remedy="less"), "over_budget"),
        (InvalidValueError("memory", 1, "more"), "invalid_params"),
        (RuntimeError("a bug"), "internal"),
    ],
)
def test_failures_are_answers(
    client: RawClient, running: RunningServer, failure: Exception, kind: str
) -> None:
    def fail(_: RequestContext) -> dict[str, Any]:
        raise failure

    running.handler.behaviour["session.get"] = fail
    answer = client.request("session.get")
    assert kind_of(answer) == kind
    assert ("a bug" in str(answer)) is False
    assert client.kind("host.version") == "ok"
    assert running.stats()["failed_requests"] == (kind == "internal")


def test_an_answer_that_is_no_json_is_our_fault(client: RawClient, running: RunningServer) -> None:
    running.handler.behaviour["session.get"] = lambda _: {"x": float("nan")}
    assert client.kind("session.get") == "internal"


def test_events_and_answers_share_the_connection(client: RawClient, running: RunningServer) -> None:
    client.request("events.subscribe")
    connection = running.handler.contexts[-1].connection
    encoded = codec.notification("event", {"t_ns": 2})
    assert running.call(lambda: connection.notify("event", {"t_ns": 1}))
    assert running.call(lambda: connection.notify_line(encoded))
    assert [client.read()["params"]["t_ns"] for _ in range(2)] == [1, 2]
    assert client.kind("host.version") == "ok"


def test_a_slow_reader_of_events_is_told_what_it_missed(
    client: RawClient, running: RunningServer
) -> None:
    client.request("events.subscribe")
    connection = running.handler.contexts[-1].connection
    record = {"kind": "sample", "filler": "x" * 1000}
    sent = running.call(lambda: [connection.notify("event", record) for _ in range(5000)])
    assert 0 < sum(sent) < 5000
    assert running.stats()["output_bytes"] <= 256 << 10
    seen = [client.read()["params"] for _ in range(sum(sent) + 1)]
    assert [x["kind"] for x in seen[:-1]] == ["sample"] * sum(sent)
    assert (seen[-1]["kind"], seen[-1]["count"]) == ("dropped", 5000 - sum(sent))
    assert running.call(lambda: connection.notify("event", record))
    assert client.read()["params"]["kind"] == "sample"


def test_close_ends_clients_and_removes_the_sockets(running: RunningServer) -> None:
    running.become(AGENT)
    running.handler.behaviour["tool.begin"] = lambda _: asyncio.sleep(60, {})
    with RawClient(running.agent_path) as client:
        client.send(line("tool.begin", {"key": "k"}))
        eventually(lambda: bool(running.handler.contexts))
        running.run(running.server.close())
        with pytest.raises((EOFError, ConnectionError)):
            client.read()
    assert not Path(running.agent_path).exists()
    assert not Path(running.admin_path).exists()


def test_a_handler_that_will_not_end_does_not_hold_up_the_end(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcgroup.daemon.server._CLOSE_PATIENCE_S", 0.05)
    running.become(AGENT)
    gate = asyncio.Event()

    async def stubborn(_: RequestContext) -> dict[str, Any]:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        return {}

    running.handler.behaviour["tool.begin"] = stubborn
    with RawClient(running.agent_path) as client:
        client.send(line("tool.begin", {"key": "k"}))
        eventually(lambda: bool(running.handler.contexts))
        running.run(running.server.close())
    running.call(gate.set)
    eventually(lambda: running.call(lambda: len(asyncio.all_tasks())) == 1)


def test_two_daemons_do_not_share_a_socket(running: RunningServer) -> None:
    other = Server(running.handler, running.registry)
    with pytest.raises(ConfigError, match="in use"):
        running.run(other.start(running.agent_path + ".2", running.admin_path))
    assert not Path(running.agent_path + ".2").exists()
    with RawClient(running.admin_path) as client:
        assert client.kind("host.status") == "ok"
