# SPDX-License-Identifier: Apache-2.0
"""output.communicate and Popen.wait for tasks: only the waiting task stands still."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from typing import Any

from .output import READ_BYTES, OnOutput, Sink, close_input, encoded_input, sinks_of, written

__all__ = ["communicate", "wait"]


async def communicate(
    process: subprocess.Popen[Any], given: Any, on_output: OnOutput | None
) -> tuple[Any, Any]:
    """Standard output and error, whole; bounded by whoever cancels it."""
    sinks = sinks_of(process, on_output)
    try:
        async with asyncio.TaskGroup() as group:
            for sink in sinks.values():
                group.create_task(_drain(sink))
            if process.stdin is not None:
                group.create_task(_feed(process, encoded_input(process.stdin, given)))
    except BaseExceptionGroup as problems:
        raise problems.exceptions[0] from None
    await wait(process)
    out, err = (sinks[name].whole() if name in sinks else None for name in ("stdout", "stderr"))
    return out, err


async def wait(process: subprocess.Popen[Any]) -> int:
    """Its return code; the process itself goes on when the task is cancelled."""
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        try:
            await _ready(pidfd, asyncio.get_running_loop().add_reader, "remove_reader")
        finally:
            os.close(pidfd)
    return process.wait()


async def _drain(sink: Sink) -> None:
    os.set_blocking(sink.fd, False)
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = os.read(sink.fd, READ_BYTES)
        except BlockingIOError:
            await _ready(sink.fd, loop.add_reader, "remove_reader")
            continue
        sink.feed(data)
        if not data:
            return
        # A command that never stops writing must not keep the loop to itself.
        await asyncio.sleep(0)


async def _feed(process: subprocess.Popen[Any], data: memoryview) -> None:
    assert process.stdin is not None
    fd = process.stdin.fileno()
    os.set_blocking(fd, False)
    loop = asyncio.get_running_loop()
    try:
        while data:
            left = written(fd, data)
            if len(left) == len(data):
                await _ready(fd, loop.add_writer, "remove_writer")
            data = left
    finally:
        close_input(process)


async def _ready(fd: int, watch: Callable[..., Any], unwatch: str) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def now() -> None:
        if not ready.done():
            ready.set_result(None)

    watch(fd, now)
    try:
        await ready
    finally:
        getattr(loop, unwatch)(fd)
