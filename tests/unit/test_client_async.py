# SPDX-License-Identifier: Apache-2.0
"""async with client.tool_call(…): like the synchronous client; a cancelled task leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon, session_info

from agentcgroup import AsyncClient
from agentcgroup import log as agentcgroup_log
from agentcgroup.client import AsyncToolCall, call_dialog, channels
from agentcgroup.errors import DaemonUnavailableError, InvalidValueError, RefusedError, RemoteError
from agentcgroup.protocol.errors import Kind
from agentcgroup.types.outcomes import Reason

Work = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_dialog, "RETRY_S", 0.2)
    monkeypatch.setattr(channels, "RETRY_S", 0.2)
    monkeypatch.setattr(agentcgroup_log, "_said", set())


def with_client(daemon: FakeDaemon, work: Work) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.agent_path, timeout_s=10) as client:
            await work(client)

    asyncio.run(main())


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  (in other threads and processes)
        await asyncio.sleep(0.01)


def test_begin_precedes_the_command(daemon: FakeDaemon, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    def begin(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        assert fd is not None and not proof.exists()
        return FakeDaemon._tool_begin(daemon, params, fd)

    async def work(client: AsyncClient) -> None:
        async with client.tool_call(memory="2G") as call:
            result = await call.run(["touch", str(proof)])
            again = await call.run("echo $$; exit 3", shell=True, capture_output=True, text=True)
        assert (result.returncode, proof.exists(), again.returncode) == (0, True, 3)
        assert call.outcome is result.outcome is not None and call.outcome.exit_code == 3
        placed = [pid for _, m, _, pid in daemon.requests if m == "tool.update"]
        assert placed == [int(again.stdout)]

    daemon.handlers["tool.begin"] = begin
    with_client(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.update", "tool.end"]


def test_input_output_timeout_and_check(daemon: FakeDaemon) -> None:
    big = "x" * (1 << 20)

    async def work(client: AsyncClient) -> None:
        async with client.tool_call() as call:
            echoed = await call.run(["cat"], input=big, capture_output=True, text=True)
            assert echoed.stdout == big
            unread = await call.run(["true"], input=big, text=True)
            assert unread.returncode == 0
            with pytest.raises(subprocess.CalledProcessError):
                await call.run(["false"], check=True)
            with pytest.raises(subprocess.TimeoutExpired):
                await call.run(["sleep", "60"], timeout=0.2)
            with pytest.raises(FileNotFoundError):
                await call.run(["no-such-program"])
        assert daemon.params("tool.end") == [{"call": "c-1", "signal": 9}]
        with pytest.raises(RuntimeError, match="has ended"):
            await call.run(["true"])

    with_client(daemon, work)


def test_output_comes_as_it_is_written(daemon: FakeDaemon) -> None:
    heard: list[tuple[str, str]] = []
    script = "echo one; read answer; echo $answer; echo two >&2"

    async def work(client: AsyncClient) -> None:
        async with client.tool_call() as call:
            result = await call.run(
                ["sh", "-c", script], input="yes\n", text=True,
                on_output=lambda name, piece: heard.append((name, piece)),
            )  # fmt: skip
        assert (result.stdout, result.stderr) == ("one\nyes\n", "two\n")

    with_client(daemon, work)
    assert "".join(piece for name, piece in heard if name == "stdout") == "one\nyes\n"
    assert ("stderr", "two\n") in heard


def test_a_failing_listener_fails_the_run(daemon: FakeDaemon) -> None:
    def complain(_name: str, _piece: bytes) -> None:
        raise ZeroDivisionError

    async def work(client: AsyncClient) -> None:
        async with client.tool_call() as call:
            with pytest.raises(ZeroDivisionError):
                await call.run(["sh", "-c", "echo x; sleep 60"], on_output=complain)

    with_client(daemon, work)


def test_other_tasks_go_on_while_one_waits(daemon: FakeDaemon) -> None:
    """Forty calls that sleep for half a second take nothing like twenty seconds."""

    async def one(client: AsyncClient, number: int) -> int | None:
        async with client.tool_call(label=str(number)) as call:
            await call.run(["sh", "-c", f"sleep 0.5; exit {number}"])
        return call.outcome.exit_code if call.outcome else None

    async def work(client: AsyncClient) -> None:
        codes = await asyncio.gather(*(one(client, number) for number in range(40)))
        assert codes == list(range(40))

    started_s = time.monotonic()
    with_client(daemon, work)
    assert time.monotonic() - started_s < 15
    assert len(daemon.keys) == 40


def test_a_crowd_of_tasks_does_not_make_the_daemon_look_dead(daemon: FakeDaemon) -> None:
    """All at once they would have to wait for their first answer for longer than is borne."""
    one_at_a_time = threading.Lock()

    def slow(_params: dict[str, Any], _fd: int | None) -> dict[str, Any]:
        with one_at_a_time:
            time.sleep(0.05)
        return {"version": "0.1.0", "protocol": 1}

    async def work(client: AsyncClient) -> None:
        done = await asyncio.gather(*(client.run(["true"]) for _ in range(60)))
        assert all(result.call.managed for result in done)

    daemon.handlers["host.version"] = slow
    with_client(daemon, work)


def test_a_cancelled_command_is_killed_and_its_call_ended(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"

    async def one(client: AsyncClient) -> None:
        async with client.tool_call() as call:
            await call.run(["sh", "-c", f"echo $$ >>{pids}; exec sleep 60"])

    async def work(client: AsyncClient) -> None:
        tasks = [asyncio.create_task(one(client)) for _ in range(20)]
        await until(lambda: pids.exists() and len(pids.read_text().split()) >= 10)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()  # once more, while the call is being ended
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)

    with_client(daemon, work)
    begun = {key for params in daemon.params("tool.begin") for key in [daemon.keys[params["key"]]]}
    ended = {params["call"] for params in daemon.params("tool.end")}
    assert len(begun) >= 10
    # Who was cancelled inside `tool.begin` has closed its connection and killed its child.
    assert len(begun - ended) <= 10
    deadline_s = time.monotonic() + 20
    while any(runs(pid) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_cancelling_a_queued_begin_closes_its_connection(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    asked = []

    def queue(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        asked.append(True)
        time.sleep(0.5)
        return FakeDaemon._tool_begin(daemon, params, fd)

    async def work(client: AsyncClient) -> None:
        task = asyncio.create_task(client.run(["touch", str(tmp_path / "ran")]))
        await until(lambda: bool(asked))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    daemon.handlers["tool.begin"] = queue
    with_client(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.resume", "tool.resume"]
    assert not (tmp_path / "ran").exists()


def test_a_call_begun_for_nobody_is_ended(daemon: FakeDaemon) -> None:
    """The daemon had placed it when the task was cancelled: only its key is known."""
    begun = []

    def begin(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        answer = FakeDaemon._tool_begin(daemon, params, fd)
        begun.append(answer["call"])
        time.sleep(0.3)
        return answer

    async def work(client: AsyncClient) -> None:
        task = asyncio.create_task(client.run(["sleep", "60"]))
        await until(lambda: bool(begun))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    daemon.handlers["tool.begin"] = begin
    with_client(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.resume"]
    assert daemon.params("tool.resume") == [{"signal": 9}]
    assert list(daemon.outcomes) == begun


def test_end_from_another_task(daemon: FakeDaemon) -> None:
    async def work(client: AsyncClient) -> None:
        async with client.tool_call() as call:
            process = await call.popen(["sleep", "60"])
            outcome = await call.end()
            assert outcome is not None and await call.end() is outcome
            process.kill()  # the real daemon does
            assert await call.wait(process) == -9

    with_client(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_refusals(daemon: FakeDaemon) -> None:
    daemon.refuse("tool.begin", Kind.OVER_BUDGET, field="intent.memory", remedy="ask for less")

    async def work(client: AsyncClient) -> None:
        with pytest.raises(RefusedError, match="cannot do"):
            await client.run(["true"])
        with pytest.raises(InvalidValueError, match="momery"):
            client.tool_call({"momery": "2G"})
        with pytest.raises(InvalidValueError, match="1048576 bytes"):
            await client.call("x" * (1 << 20))

    with_client(daemon, work)


def test_restart_in_mid_call_resumes(daemon: FakeDaemon) -> None:
    async def work(client: AsyncClient) -> None:
        async with client.tool_call(key="mine") as call:
            await call.run(["true"])
            daemon.stop()
            daemon.start()
            await call.run(["sh", "-c", "exit 5"])
            daemon.stop()
            daemon.start()
        assert call.outcome is not None and call.outcome.exit_code == 5

    with_client(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.resume", "tool.update", "tool.resume"]


def test_absent_and_required(
    tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "agent.sock")

    async def work() -> None:
        client = AsyncClient(path)
        for _ in range(2):
            result = await client.run(["sh", "-c", "exit 4"])
        assert result.outcome is not None and result.outcome.reason is Reason.FAILED
        with pytest.raises(DaemonUnavailableError):
            await AsyncClient(path, require=True).run(["touch", str(tmp_path / "ran")])

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert len(caplog.records) == 1 and not (tmp_path / "ran").exists()


def test_silent_daemon_counts_as_absent(tmp_path: Path, impatient: None) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x.sock"))
        listener.listen()

        async def work() -> None:
            client = AsyncClient(str(tmp_path / "x.sock"), timeout_s=1)
            with pytest.raises(DaemonUnavailableError, match="did not answer"):
                await client.version(retry=False)

        asyncio.run(work())


def test_decorated_functions(daemon: FakeDaemon) -> None:
    async def work(client: AsyncClient) -> None:
        @client.tool(memory="1G")
        async def unit_tests(call: AsyncToolCall, code: int) -> int:
            return (await call.run(["sh", "-c", f"exit {code}"])).returncode

        assert await unit_tests(4) == 4
        assert unit_tests.__name__ == "unit_tests"  # type: ignore[attr-defined]

    with_client(daemon, work)
    (begun,) = daemon.params("tool.begin")
    assert (begun["intent"]["label"], begun["intent"]["memory"]) == ("unit_tests", 1 << 30)


def test_every_method_is_there(daemon: FakeDaemon) -> None:
    info = {"session": session_info("alice")}
    for method in ("create", "adopt", "detach", "get", "update"):
        daemon.handlers[f"session.{method}"] = lambda _params, _fd: info
    daemon.handlers["session.list"] = lambda _p, _f: {"sessions": [info["session"]]}
    daemon.handlers["session.end"] = lambda _p, _f: {"session": "alice"}
    daemon.handlers["intent.declare"] = lambda _p, _f: {"intent_id": "i-1"}
    daemon.handlers["step.report"] = lambda _p, _f: {"advice": "continue"}
    daemon.handlers["tool.list"] = lambda _p, _f: {"calls": []}
    daemon.notifications = [{"t_ns": 1, "kind": "call_begin"}]

    async def work(client: AsyncClient) -> None:
        assert (await client.create_session("alice", memory="4G")).name == "alice"
        assert (await client.adopt(os.getpid())).name == "alice"
        assert (await client.update_session("alice", priority="low")).name == "alice"
        assert [s.name for s in await client.sessions()] == ["alice"]
        assert (await client.session()).name == "alice"
        assert (await client.detach("alice")).name == "alice"
        assert (await client.end_session("alice")).session == "alice"
        assert await client.declare_intent({"memory": "1G"}) == "i-1"
        told = await client.report_step(step=1, prompt_tokens=2, completion_tokens=3)
        assert told.advice == "continue"
        assert await client.calls() == await client.live_calls() == []
        with pytest.raises(RemoteError):
            await client.outcome("c-9")
        async for event in client.events():
            assert event["t_ns"] == 1
            break

    with_client(daemon, work)


def test_both_clients_offer_the_same() -> None:
    code = (
        "from agentcgroup import AsyncClient, Client\n"
        "offered = [{n for n in dir(c) if not n.startswith('_')} for c in (Client, AsyncClient)]\n"
        "assert offered[0] == offered[1], offered[0] ^ offered[1]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
