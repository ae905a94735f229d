# SPDX-License-Identifier: Apache-2.0
"""Every method of the protocol has its place in the SDK, on the right socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import DropError, FakeDaemon, session_info

from agentcgroup import Client
from agentcgroup.client import endpoint as endpoints
from agentcgroup.client.steps import in_thread
from agentcgroup.errors import (
    DaemonUnavailableError,
    InvalidValueError,
    NotPermittedError,
    RemoteError,
)
from agentcgroup.protocol.errors import Kind
from agentcgroup.types.steps import StepReport


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.agent_path, timeout_s=10) as made:
        yield made


def answer(daemon: FakeDaemon, method: str, result: dict[str, Any]) -> None:
    daemon.handlers[method] = lambda _params, _fd: result


def test_sessions(daemon: FakeDaemon, client: Client) -> None:
    info = {"session": session_info("alice")}
    for method in ("create", "adopt", "detach", "get", "update"):
        answer(daemon, f"session.{method}", info)
    answer(daemon, "session.list", {"sessions": [info["session"]]})
    answer(daemon, "session.end", {"session": "alice"})
    pidfd = os.pidfd_open(os.getpid())
    created = client.create_session("alice", memory="4G", priority="high", pidfd=pidfd)
    os.close(pidfd)
    assert created.name == "alice"
    assert client.adopt(os.getpid(), labels={"a": "b"}).name == "alice"
    assert client.update_session("alice", priority="low").name == "alice"
    assert [s.name for s in client.sessions()] == ["alice"]
    assert client.session().name == client.session("alice").name == "alice"
    assert client.detach("alice").name == client.end_session("alice").session == "alice"
    seen = [(where, m, p, pid) for where, m, p, pid in daemon.requests if m != "host.version"]
    me = os.getpid()
    assert seen == [
        ("admin", "session.create",
         {"name": "alice", "memory": 4 << 30, "priority": "high"}, me),
        ("admin", "session.adopt", {"labels": {"a": "b"}}, me),
        ("admin", "session.update", {"session": "alice", "priority": "low"}, None),
        ("admin", "session.list", {}, None),
        ("agent", "session.get", {}, None),
        ("agent", "session.get", {"session": "alice"}, None),
        ("admin", "session.detach", {"session": "alice"}, None),
        ("admin", "session.end", {"session": "alice"}, None),
    ]  # fmt: skip


def test_bad_values_never_leave(daemon: FakeDaemon, client: Client) -> None:
    for bad, field in (
        (lambda: client.create_session("a/b"), "name"),
        (lambda: client.create_session("x" * 300), "name"),
        (lambda: client.create_session(memory="2GBs"), "memory"),
        (lambda: client.update_session("a", colour=1), "colour"),
        (lambda: client.adopt(2**22 + 1), "pid"),
        (lambda: client.adopt(-1), "pid"),
        (lambda: client.declare_intent({"memory": -1}), "intent.memory"),
        (lambda: client.calls(limit=0), "limit"),
    ):
        with pytest.raises(InvalidValueError) as refused:
            bad()
        assert refused.value.field == field
    assert daemon.requests == []


def test_agents_own_methods(daemon: FakeDaemon, client: Client) -> None:
    answer(daemon, "session.budget", {
        "session": "s", "memory_bytes": 1, "memory_free_bytes": 1, "granted_bytes": 0,
        "memory_current_bytes": None, "cpu": None, "calls": 0, "queued": 0,
    })  # fmt: skip
    answer(daemon, "intent.declare", {"intent_id": "i-1"})
    answer(daemon, "step.report", {"advice": "continue"})
    answer(daemon, "tool.list", {"calls": [{"call": "c", "session": "s", "state": "running"}]})
    assert client.version().protocol == 1
    assert client.budget().memory_bytes == 1
    assert client.declare_intent({"memory": "1G"}, match="pytest*") == "i-1"
    assert client.report_step(step=1, prompt_tokens=2, completion_tokens=3).advice == "continue"
    report = StepReport(step=2, prompt_tokens=2, completion_tokens=3)
    assert client.report_step(report, cost_usd=0.5).score is None
    assert [c.call for c in client.calls(ended=False)] == ["c"]
    assert {where for where, _, _, _ in daemon.requests} == {"agent"}
    assert daemon.params("intent.declare") == [
        {"intent": {"memory": 1 << 30}, "match": "pytest*", "ttl_s": 60.0}
    ]
    assert daemon.params("step.report")[1]["cost_usd"] == 0.5


def test_operator_is_asked_again_as_administrator(daemon: FakeDaemon, client: Client) -> None:
    client.run(["true"])
    daemon.refuse("tool.get", Kind.NO_SESSION, once=True)
    assert client.outcome("c-1") is not None
    assert [w for w, m, _, _ in daemon.requests if m == "tool.get"] == ["agent", "admin"]
    with pytest.raises(RemoteError) as refused:
        client.call("c-9")
    assert (refused.value.kind, refused.value.remedy) == ("not_found", "list them")


def test_events_are_trace_records(daemon: FakeDaemon, client: Client) -> None:
    daemon.notifications = [{"t_ns": 1, "kind": "call_begin"}, {"t_ns": 2, "kind": "call_end"}]
    stream = client.events(kinds=["call_begin", "call_end"])
    assert [next(stream)["t_ns"], next(stream)["t_ns"]] == [1, 2]
    stream.close()  # type: ignore[attr-defined]
    daemon.refuse("events.subscribe", Kind.NO_SESSION, once=True)
    assert next(client.events())["t_ns"] == 1


def test_connections_are_reused_and_renewed(daemon: FakeDaemon, client: Client) -> None:
    for _ in range(3):
        client.version()
    assert daemon.connections == 1
    daemon.stop()
    daemon.start()
    client.version()
    assert daemon.connections == 2


def test_lost_request_is_not_sent_twice(daemon: FakeDaemon, client: Client) -> None:
    def lose(_params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        raise DropError

    daemon.handlers["session.end"] = lose
    with pytest.raises(DaemonUnavailableError, match="closed the connection"):
        client.end_session("alice")
    assert daemon.methods() == ["session.end"]


def test_silent_daemon_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "GREETING_TIMEOUT_S", 0.1)
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        endpoint = endpoints.Endpoint(path, 1.0)
        with pytest.raises(DaemonUnavailableError, match="did not answer"):
            in_thread(endpoint.request("host.version", {}, retry_s=0.0))


def test_connecting_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = endpoints.Endpoint(str(tmp_path / "none.sock"), 1.0)
    with pytest.raises(DaemonUnavailableError, match="start agentcgroupd"):
        in_thread(endpoint.request("host.version", {}, retry_s=0.0))

    def denied(_self: socket.socket, _path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "connect", denied)
    with pytest.raises(NotPermittedError, match="sudo") as refused:
        in_thread(endpoint.request("host.version", {}))
    assert refused.value.exit_code == 77


def test_huge_request_is_refused_here(client: Client) -> None:
    with pytest.raises(InvalidValueError, match="1048576 bytes"):
        client.call("x" * (1 << 20))


HEAVY = {"asyncio", "docker", "numpy", "psutil", "pyroute2", "rich", "ssl", "typer"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    return set(run.stdout.split())


def test_sdk_pulls_in_pydantic_and_nothing_else() -> None:
    bare = modules_after("import agentcgroup")
    assert not {name for name in bare if name.startswith(("pydantic", "agentcgroup."))}
    loaded = modules_after("from agentcgroup import Client, Intent, Outcome")
    assert not loaded & HEAVY
    outside = {
        name.partition(".")[0] for name in loaded
        if "." not in name and not name.startswith("_") and name not in sys.stdlib_module_names
    }  # fmt: skip
    theirs = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions",
              "typing_inspection"}  # fmt: skip
    assert outside - modules_after("pass") <= theirs | {"agentcgroup"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("agentcgroup.")}
    assert rooms <= {"client", "protocol", "types", "errors", "units", "log", "clock", "programs"}


def test_import_time_is_pydantics() -> None:
    """In CPU time, the best of several: other load on the machine does not count."""

    def best_s(statement: str) -> float:
        code = f"import time; s = time.process_time(); {statement}; print(time.process_time() - s)"
        command = [sys.executable, "-c", code]
        root = str(Path(__file__).parents[2])
        times = [
            float(subprocess.run(command, capture_output=True, check=True, cwd=root).stdout)
            for _ in range(3)
        ]
        return min(times)

    pydantic_s = best_s("from pydantic import BaseModel, BeforeValidator, Field, model_validator")
    assert best_s("from agentcgroup import Client, Intent, Outcome") < 3 * pydantic_s
    assert best_s("import agentcgroup") < pydantic_s / 4


def test_public_names() -> None:
    import agentcgroup
    import agentcgroup.client

    assert set(agentcgroup.__all__) == {"AsyncClient", "Client", "Intent", "Outcome", "version"}
    assert all(hasattr(agentcgroup, name) for name in agentcgroup.__all__)
    assert all(hasattr(agentcgroup.client, name) for name in agentcgroup.client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        agentcgroup.Clinet  # noqa: B018
