# SPDX-License-Identifier: Apache-2.0
"""async with client.shell(): the same logic in tasks; cancelling stops a command, not the shell."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon

from agentcgroup import AsyncClient
from agentcgroup.client import AsyncShell, Shell, shell_dialog
from agentcgroup.errors import RemoteError
from agentcgroup.protocol.errors import Kind

Work = Callable[[AsyncShell], Awaitable[None]]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


def with_shell(daemon: FakeDaemon, work: Work, **options: Any) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.agent_path, timeout_s=10) as client:
            async with client.shell(text=True, **options) as shell:
                await work(shell)
            with pytest.raises(RuntimeError, match="is closed"):
                await shell.run("true")

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  (in other threads and processes)
        await asyncio.sleep(0.01)


def test_state_output_input_and_ends(daemon: FakeDaemon, tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []

    async def work(shell: AsyncShell) -> None:
        first = await shell.run("x=1; cat; echo err >&2; (exit 3)", {"memory": "1G"}, input="in\n")
        assert (first.returncode, first.stdout, first.stderr) == (3, "in\n", "err\n")
        assert first.outcome is not None and first.outcome.exit_code == 3
        again = await shell.run(
            "pwd; echo $x", on_output=lambda name, piece: heard.append((name, piece)), label="l"
        )
        assert again.stdout == f"{tmp_path}\n1\n" == "".join(piece for _, piece in heard)
        big = await shell.run("head -c 10000000 /dev/zero")
        assert len(big.stdout) == 10_000_000
        with pytest.raises(subprocess.CalledProcessError):
            await shell.run("false", check=True)
        with pytest.raises(subprocess.TimeoutExpired) as late:
            await shell.run("echo begun; sleep 60", timeout=0.2)
        assert late.value.output == "begun\n"
        assert (await shell.run("echo $x")).stdout == "1\n"
        ended = await shell.run("exit 7")
        assert (ended.returncode, ended.shell_ended) == (7, True)
        assert (await shell.run("echo $x")).stdout == "\n" and shell.restarted

    with_shell(daemon, work, cwd=tmp_path)
    assert daemon.params("tool.begin")[0]["shell"] is True
    assert daemon.methods() == ["tool.begin", "tool.end"] * 8


def test_a_cancelled_command_stops_and_the_shell_goes_on(daemon: FakeDaemon) -> None:
    async def work(shell: AsyncShell) -> None:
        await shell.run("mark=still")
        begun: list[str] = []
        for command in ("echo a; sleep 60", "echo a; while :; do :; done"):
            begun.clear()
            task = asyncio.create_task(
                shell.run(command, on_output=lambda _, piece: begun.append(piece))
            )
            await until(lambda: bool(begun))
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()  # once more, while the command is being stopped
            with pytest.raises(asyncio.CancelledError):
                await task
            assert daemon.params("tool.end")[-1]["signal"] == 2
            assert (await shell.run("echo $mark")).stdout == "still\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await shell.run("sleep 60")
        assert (await shell.run("echo $mark")).stdout == "still\n"

    with_shell(daemon, work)
    assert daemon.methods().count("tool.begin") == daemon.methods().count("tool.end")


def test_a_cancelled_command_may_cost_the_shell(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_dialog, "_GRACE_S", 0.3)

    async def work(shell: AsyncShell) -> None:
        task = asyncio.create_task(shell.run("trap : INT; while :; do sleep 0.05; done"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert daemon.params("tool.end")[-1] == {"call": "c-1", "signal": 9}
        assert (await shell.run("echo fresh")).stdout == "fresh\n" and shell.restarted

    with_shell(daemon, work)


def test_cancelled_while_it_waits_to_begin(daemon: FakeDaemon, tmp_path: Path) -> None:
    asked = []

    def queue(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        asked.append(True)
        time.sleep(0.3)
        return FakeDaemon._tool_begin(daemon, params, fd)

    async def work(shell: AsyncShell) -> None:
        daemon.handlers["tool.begin"] = queue
        task = asyncio.create_task(shell.run(f"touch {tmp_path}/ran"))
        await until(lambda: bool(asked))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del daemon.handlers["tool.begin"]
        assert (await shell.run("echo here")).stdout == "here\n" and not shell.restarted

    with_shell(daemon, work)
    assert not (tmp_path / "ran").exists()


def test_tasks_take_turns_and_others_go_on(daemon: FakeDaemon) -> None:
    async def work(shell: AsyncShell) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        done = await asyncio.gather(
            *(shell.run(f"n={n}; sleep 0.05; echo $n") for n in range(6)),
            shell.run("yes | head -99999"),
        )
        ticking.cancel()
        assert [result.stdout for result in done[:6]] == [f"{n}\n" for n in range(6)]
        assert ticks >= 10

    with_shell(daemon, work)


def test_closed_by_another_task(daemon: FakeDaemon) -> None:
    async def work(shell: AsyncShell) -> None:
        task = asyncio.create_task(shell.run("while sleep 0.05; do :; done"))
        await asyncio.sleep(0.3)
        await shell.close()
        assert (await task).returncode == -9

    with_shell(daemon, work)
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_refused_and_nothing_left_over(daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient(daemon.agent_path, timeout_s=10) as client:

            async def use() -> None:
                async with client.shell() as shell:
                    daemon.refuse("tool.begin", Kind.NOT_SUPPORTED, remedy="see doctor", once=False)
                    with pytest.raises(RemoteError):
                        await shell.run("true")
                    del daemon.handlers["tool.begin"]
                    await shell.run("true")
                    await shell.run("exit")
                    await shell.run("true")

            await use()
            before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
            await use()
            assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    asyncio.run(main())


def test_both_shells_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(kind).items()
            if not name.startswith("_")
        }

    assert offered(Shell) == offered(AsyncShell)
