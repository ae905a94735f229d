# SPDX-License-Identifier: Apache-2.0
"""A child process that does what a probe asks, so that an effect can be seen on it.

It is a process of its own, not a fork of the caller: a daemon with threads can't fork
safely, and the probed limits must hit nobody else.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from .api import CgroupLike

__all__ = ["ProbeWorker", "WorkerSilentError"]

# One command a line; the answer is one line: figures, or "errno N".
_SCRIPT = """
import mmap, os, sys, time
kept = []

def touch(size):
    block = mmap.mmap(-1, int(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, len(block), 4096):
        block[offset] = 1
    kept.append(block)
    return 0

def spin(duration_ms):
    end = time.monotonic_ns() + int(duration_ms) * 1000000
    start = time.thread_time_ns()
    while time.monotonic_ns() < end:
        pass
    return (time.thread_time_ns() - start) // 1000

def pin(cpu):
    os.sched_setaffinity(0, {int(cpu)})
    return 0

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 0

def write(path, size, direct):
    block = mmap.mmap(-1, 65536)
    start = time.monotonic_ns()
    fd = os.open(path, os.O_WRONLY | (os.O_DIRECT if direct == "1" else 0))
    for _ in range(int(size) // len(block)):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)
    return (time.monotonic_ns() - start) // 1000

for line in sys.stdin:
    name, *arguments = line.rstrip("\\n").split("\\t")
    try:
        answer = {"touch": touch, "spin": spin, "pin": pin, "fork": fork, "write": write,
                  "ping": lambda: 0}[name](*arguments)
    except OSError as error:
        answer = f"errno {error.errno}"
    print(answer, flush=True)
"""


class WorkerSilentError(Exception):
    """The worker did not answer in time, or died."""


class ProbeWorker:
    """Runs in `cg` from its first command on; killed when the block ends."""

    def __init__(self, cg: CgroupLike) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        try:
            # Waits for it to be up, so that its own start is not charged to `cg`.
            self.ask("ping", timeout_s=10)
            cg.move(self._process.pid)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, *command: object, timeout_s: float = 5.0) -> int:
        """Send a command and wait for its figure; OSError as the worker met it."""
        self.tell(*command)
        return self.answer(timeout_s)

    def tell(self, *command: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(("\t".join(str(word) for word in command) + "\n").encode())

    def answer(self, timeout_s: float = 5.0) -> int:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))
            chunk = self._process.stdout.read(256) if ready else b""
            if not chunk:
                raise WorkerSilentError("the probe's process did not answer")
            line += chunk
        text = line.decode().strip()
        if text.startswith("errno "):
            raise OSError(int(text[6:]), "the probe's process failed")
        return int(text)

    def ended(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        # A frozen process dies as well; one that hangs in the kernel is left behind.
        self.ended(timeout_s=5)
