# SPDX-License-Identifier: Apache-2.0
"""One logic for both clients: a conversation is a generator of steps, and who runs it
decides whether a step blocks the thread or suspends only its task.

A step's failure is raised where it was yielded, a cancelled task's too: `try`, `except`
and `finally` mean in a conversation what they mean everywhere.
"""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .child import WaitingChild
from .connection import Connection
from .wire import Wire

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Ask",
    "Conversation",
    "Greet",
    "Pause",
    "Readable",
    "Spawn",
    "Step",
    "Turns",
    "Whole",
    "in_task",
    "in_thread",
    "to_its_end",
]

T = TypeVar("T")
# poll(2) counts milliseconds in an int; whoever waits longer asks again.
_LONGEST_WAIT_S = 3600.0


class Step(Protocol):
    def block(self) -> Any:
        """Take the step in this thread."""

    async def suspend(self) -> Any:
        """Take the step in this task."""


Conversation = Generator[Step, Any, T]


class Turns:
    """Bounds how many tasks take a step at a time. Threads do not count: they are few."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._semaphore: Any = None

    async def __aenter__(self) -> None:
        import asyncio  # noqa: PLC0415  (only who has tasks pays for its import)

        if self._semaphore is None:
            self._semaphore = asyncio.Semaphore(self._most)
        await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()


@dataclass(frozen=True, slots=True)
class Greet:
    """Answered with a connection on which the daemon has answered once, within `timeout_s`.

    `turns`: a hundred tasks that begin at once would else make each other's daemon look dead.
    """

    path: str
    timeout_s: float
    turns: Turns

    def block(self) -> Wire:
        connection = Connection.open(self.path)
        connection.request("host.version", {}, timeout_s=self.timeout_s)
        return connection

    async def suspend(self) -> Wire:
        from .async_connection import AsyncConnection  # noqa: PLC0415

        async with self.turns:
            connection = await AsyncConnection.open(self.path)
            await connection.request("host.version", {}, timeout_s=self.timeout_s)
        return connection


@dataclass(frozen=True, slots=True)
class Ask:
    """Answered with the result object of one request on `connection`."""

    connection: Any
    method: str
    params: dict[str, Any]
    timeout_s: float | None = None
    pidfd: int | None = None

    def block(self) -> dict[str, Any]:
        result: dict[str, Any] = self.connection.request(
            self.method, self.params, pidfd=self.pidfd, timeout_s=self.timeout_s
        )
        return result

    async def suspend(self) -> dict[str, Any]:
        result: dict[str, Any] = await self.connection.request(
            self.method, self.params, pidfd=self.pidfd, timeout_s=self.timeout_s
        )
        return result


@dataclass(frozen=True, slots=True)
class Pause:
    seconds_s: float

    def block(self) -> None:
        time.sleep(self.seconds_s)

    async def suspend(self) -> None:
        import asyncio  # noqa: PLC0415

        await asyncio.sleep(self.seconds_s)


@dataclass(frozen=True, slots=True)
class Spawn:
    """Answered with the WaitingChild of `argv` and Popen's options."""

    argv: list[str]
    options: dict[str, Any]

    def block(self) -> WaitingChild:
        return WaitingChild(self.argv, self.options)

    async def suspend(self) -> WaitingChild:
        """In a thread: starting a process takes milliseconds, which other tasks need."""
        import asyncio  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        # A future, no task: at the end of the loop its result is still heard of.
        starting = loop.run_in_executor(None, self.block)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_abandon)
            raise


@dataclass(frozen=True, slots=True)
class Readable:
    """Answered with those of `fds` that can be read or have ended; with none when time is up."""

    fds: tuple[int, ...]
    timeout_s: float | None

    def block(self) -> list[int]:
        return self._ready(_LONGEST_WAIT_S if self.timeout_s is None else self.timeout_s)

    async def suspend(self) -> list[int]:
        import asyncio  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        for fd in self.fds:
            loop.add_reader(fd, heard.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timeout_s):
                    await heard.wait()
        finally:
            for fd in self.fds:
                loop.remove_reader(fd)
        return self._ready(0.0)

    def _ready(self, timeout_s: float) -> list[int]:
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        return [fd for fd, _ in poll.poll(math.ceil(min(timeout_s, _LONGEST_WAIT_S) * 1000))]


@dataclass(frozen=True, slots=True)
class Whole:
    """Answered with what `conversation` returns. Being cancelled does not cut it short."""

    conversation: Conversation[Any]

    def block(self) -> Any:
        return in_thread(self.conversation)

    async def suspend(self) -> Any:
        return await to_its_end(in_task(self.conversation))


def in_thread(conversation: Conversation[T]) -> T:
    """Hold it here and now; what it returns."""
    try:
        step = next(conversation)
        while True:
            try:
                answer = step.block()
            except BaseException as problem:
                step = conversation.throw(problem)
            else:
                step = conversation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def in_task(conversation: Conversation[T]) -> T:
    """Hold it in the running task; what it returns."""
    try:
        step = next(conversation)
        while True:
            try:
                answer = await step.suspend()
            except BaseException as problem:
                step = conversation.throw(problem)
            else:
                step = conversation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Not even a second cancellation leaves a call behind: it is raised when the work is done."""
    import asyncio  # noqa: PLC0415

    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as again:
            cancelled = again
        except Exception:
            break  # told below
    if cancelled is not None:
        raise cancelled
    return task.result()


def _abandon(starting: asyncio.Future[WaitingChild]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().abandon()
