# SPDX-License-Identifier: Apache-2.0
"""The MCP server, driven by the official client over stdio, against a fake daemon."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_fake import answer
from client_fake_daemon import FakeDaemon, session_info
from mcp import Client, StdioServerParameters

from agentcgroup.integrations.advice import budget_advice, workers
from agentcgroup.integrations.mcp_server import build_server
from agentcgroup.protocol.errors import Kind

GIB = 1 << 30


def program(*arguments: str) -> StdioServerParameters:
    """As an agent would start it."""
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "agentcgroup.cli.main", "mcp", *arguments],
        env=dict(os.environ),
    )


def drive(
    what: Callable[[Client], Awaitable[None]], server: StdioServerParameters | None = None
) -> None:
    """In this process, unless the program is named: starting it takes long."""

    async def whole() -> None:
        async with Client(server or build_server()) as client:
            await what(client)

    asyncio.run(whole())


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


def outcome(call: str, ended_epoch_s: float, reason: str = "completed") -> dict[str, Any]:
    return {
        "call": call, "session": "s", "state": "ended",
        "outcome": {"call": call, "session": "s", "reason": reason, "message": "Try less.",
                    "ended_epoch_s": ended_epoch_s, "retry": {"worthwhile": True}},
    }  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        monkeypatch.setenv("AGENTCGROUP_SOCKET", running.agent_path)
        answer(running, "session.get", {"session": session_info("s")})
        yield running


def test_what_is_offered(daemon: FakeDaemon) -> None:
    async def ask(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"declare_intent", "resource_budget", "last_outcome"}
        assert all(tool.description for tool in tools.values())
        assert "memory" in tools["declare_intent"].input_schema["properties"]
        resources = {str(each.uri) for each in (await client.list_resources()).resources}
        assert resources == {"agentcgroup://session", "agentcgroup://calls"}
        assert client.instructions and "declare_intent" in client.instructions

    drive(ask, program())
    assert daemon.methods() == []


def test_an_intent_is_declared(daemon: FakeDaemon) -> None:
    answer(daemon, "intent.declare", {"intent_id": "i7"})

    async def ask(client: Client) -> None:
        wishes = {"memory": "2G", "cpu": 1.5, "timeout": "10m", "match": "*pytest*", "ttl_s": 30}
        result = await client.call_tool("declare_intent", wishes)
        assert not result.is_error and result.structured_content == {"intent_id": "i7"}
        wrong = await client.call_tool("declare_intent", {"memory": "2Q"})
        assert wrong.is_error and "memory" in text_of(wrong) and "512M" in text_of(wrong)

    drive(ask)
    (sent,) = daemon.params("intent.declare")
    assert sent["intent"] == {"memory": 2 * GIB, "cpu": 1.5, "timeout_s": 600.0}
    assert (sent["match"], sent["ttl_s"], sent["session"]) == ("*pytest*", 30.0, "s")


def test_budget_with_advice(daemon: FakeDaemon) -> None:
    answer(daemon, "session.budget", {
        "session": "s", "memory_bytes": 4 * GIB, "memory_free_bytes": 3 * GIB, "cpu": 0.5,
        "granted_bytes": GIB, "memory_current_bytes": GIB, "calls": 1, "queued": 0,
    })  # fmt: skip

    async def ask(client: Client) -> None:
        said = (await client.call_tool("resource_budget", {})).structured_content
        assert said["memory_free_bytes"] == 3 * GIB and said["workers"] == 1
        assert "3 GiB" in said["advice"]

    drive(ask)


def test_the_last_outcome_is_the_one_that_ended_last(daemon: FakeDaemon) -> None:
    running = {"call": "c4", "session": "s", "state": "running"}
    answer(daemon, "tool.list", {"calls": [
        running, outcome("c2", 10.0), outcome("c3", 30.0, "oom_killed"), outcome("c1", 20.0),
    ]})  # fmt: skip
    daemon.outcomes["c1"] = outcome("c1", 20.0)["outcome"]

    async def ask(client: Client) -> None:
        said = (await client.call_tool("last_outcome", {})).structured_content
        assert (said["call"], said["reason"], said["message"]) == ("c3", "oom_killed", "Try less.")
        said = (await client.call_tool("last_outcome", {"call": "c1"})).structured_content
        assert said["call"] == "c1"
        assert (await client.call_tool("last_outcome", {"call": "c9"})).is_error
        answer(daemon, "tool.list", {"calls": [running]})
        none = await client.call_tool("last_outcome", {})
        assert none.is_error and "has ended yet" in text_of(none)

    drive(ask)


def test_resources(daemon: FakeDaemon) -> None:
    running = {"call": "c4", "session": "s", "state": "running"}
    answer(daemon, "tool.list", {"calls": [running]})

    async def ask(client: Client) -> None:
        (said,) = (await client.read_resource("agentcgroup://session")).contents
        assert json.loads(said.text)["name"] == "s"
        (said,) = (await client.read_resource("agentcgroup://calls")).contents
        assert json.loads(said.text)["calls"][0]["call"] == "c4"

    drive(ask, program("--session", "s"))
    assert daemon.params("session.get")[0] == {"session": "s"}
    assert daemon.params("tool.list")[0]["ended"] is False


def test_outside_any_session(daemon: FakeDaemon) -> None:
    for method in ("session.get", "session.budget"):
        daemon.refuse(method, Kind.NO_SESSION, remedy="start it by agentcgroup session run")

    async def ask(client: Client) -> None:
        for tool in ("resource_budget", "declare_intent", "last_outcome"):
            said = await client.call_tool(tool, {})
            assert said.is_error and "agentcgroup session run" in text_of(said), tool

    drive(ask)
    assert {"intent.declare", "tool.list"} & set(daemon.methods()) == set()


def test_without_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "none.sock"))

    async def ask(client: Client) -> None:
        said = await client.call_tool("resource_budget", {})
        assert said.is_error and "none.sock" in text_of(said)

    drive(ask)


@pytest.mark.parametrize(
    ("cpu", "host", "memory", "expected"),
    [(None, 8, None, 8), (2.0, 8, None, 2), (0.5, 8, None, 1), (16.0, 8, None, 8),
     (None, 64, 1 << 30, 4), (4.0, 64, 0, 1)],
)  # fmt: skip
def test_workers(cpu: float | None, host: int, memory: int | None, expected: int) -> None:
    assert workers(cpu, host, memory) == expected
    said = budget_advice(cpu, host, memory)
    assert (f"-j{expected}" in said) == (expected < host)
