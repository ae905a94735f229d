# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its guardian: heartbeat, start and restart.

The guardian is a small static program of its own. Under systemd it is a service and
only gets the heartbeat; by hand the daemon starts it, and again when it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cgroupfs.api import CgroupLike
from ..log import get_logger, warn_once
from ..programs import find_program
from .records import ProcessRef

__all__ = ["Guardian"]

_log = get_logger(__name__)
_BEATS_PER_TIMEOUT = 5
_RESTART_DELAY_S = 0.2


class Guardian:
    """`start` once; `stop` tells a clean end, after which the guardian thaws everything."""

    def __init__(
        self,
        root: CgroupLike,
        fifo: Path,
        timeout_s: float,
        budget_bytes: int,
        *,
        spawn: bool,
        on_beat: Sequence[Callable[[], None]],
    ) -> None:
        """`on_beat` are called after each heartbeat: did the guardian act before it?"""
        self._root = root
        self._fifo = fifo
        self._timeout_s = timeout_s
        self._budget_bytes = budget_bytes
        self._spawn = spawn
        self._on_beat = on_beat
        self.pid: int | None = None
        self._pid_file = fifo.with_suffix(".pid")
        self._fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._beat_task: asyncio.Task[None] | None = None
        self._watch_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._fifo, 0o600)
        # Read-write: neither an absent guardian nor its restart breaks the pipe.
        self._fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._tell(b"h")
        self._beat_task = asyncio.create_task(self._beat())
        if self._spawn:
            program = find_program("agentcgroup-guardian")
            if program is None:
                warn_once(_log, "agentcgroup-guardian is not installed: if the daemon dies,"
                                " frozen tool calls stay frozen until it returns")  # fmt: skip
                return
            self._watch_task = asyncio.create_task(self._keep_alive(program))

    async def stop(self) -> None:
        for task in (self._beat_task, self._watch_task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._fd >= 0:
            self._tell(b"q")
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, 5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._pid_file.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _beat(self) -> None:
        while True:
            self._tell(b"h")
            for beat in self._on_beat:
                try:
                    beat()
                except Exception:
                    # Whatever is wrong with one call, the heart goes on beating for the others.
                    _log.exception("something that follows the heartbeat failed")
            await asyncio.sleep(self._timeout_s / _BEATS_PER_TIMEOUT)

    def _tell(self, byte: bytes) -> None:
        # A full pipe means that nobody reads: then nobody needs one more.
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, byte)

    async def _keep_alive(self, program: str) -> None:
        command = [
            program, "--root", self._root.path, "--heartbeat", str(self._fifo),
            "--timeout", f"{self._timeout_s:g}", "--budget-bytes", str(self._budget_bytes),
            "--exit-on-quit",
        ]  # fmt: skip
        guardian = self._left_by_predecessor()
        while True:
            if guardian is None:
                # Not bound to our life on purpose: it must act when we are killed.
                self._process = await asyncio.to_thread(_start, command)
                guardian = ProcessRef.of(self._process.pid)
            if guardian is not None:
                self._pid_file.write_text(f"{guardian.pid} {guardian.birth}\n")
                self.pid = guardian.pid
                await _ended(guardian)
            status = self._process.wait() if self._process is not None else "unknown"
            self.pid, guardian, self._process = None, None, None
            _log.warning("the guardian ended with status %s; starting it again", status)
            await asyncio.sleep(_RESTART_DELAY_S)

    def _left_by_predecessor(self) -> ProcessRef | None:
        """One guardian a tree: two would steal each other's heartbeats."""
        try:
            pid, birth = self._pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        known = ProcessRef(int(pid), int(birth))
        return known if ProcessRef.of(known.pid) == known else None


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


async def _ended(process: ProcessRef) -> None:
    fd = process.open()
    if fd is None:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(fd, _set_once, ended)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
