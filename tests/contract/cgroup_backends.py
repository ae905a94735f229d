# SPDX-License-Identifier: Apache-2.0
"""Two hosts for the cgroup contract: the kernel, and the hierarchy in memory.

Each gives a delegated cgroup `root` and processes that do as told.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from agentcgroup.cgroupfs import proc
from agentcgroup.cgroupfs.api import CgroupLike
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.cgroupfs.handle import Cgroup

DEADLINE_S = 20.0

# Reads a number of bytes a line, touches that much more anonymous memory, says "ok".
_WORKER = """
import mmap, sys
kept = []
for line in sys.stdin:
    size = int(line)
    if size:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, size, 4096):
            block[offset] = 1
        kept.append(block)
    print("ok", flush=True)
"""


def eventually(check: Callable[[], bool]) -> bool:
    """The kernel acts on freeze and kill after the write: wait for the effect."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not check():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.002)
    return True


class Backend(ABC):
    root: CgroupLike

    @abstractmethod
    def spawn(self, cg: CgroupLike) -> int:
        """A process in `cg` that waits."""

    @abstractmethod
    def spawn_outside(self) -> int:
        """A process in no cgroup below `root`."""

    @abstractmethod
    def charge(self, pid: int, size_bytes: int) -> bool:
        """Let it touch memory; False if it was killed instead."""

    @abstractmethod
    def alive(self, pid: int) -> bool: ...

    @abstractmethod
    def end(self, pid: int) -> None:
        """Let it exit and reap it."""

    @abstractmethod
    def kill_one(self, pid: int) -> None:
        """SIGKILL to this process; it may take a moment to end."""

    @abstractmethod
    def close(self) -> None: ...


class FakeBackend(Backend):
    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.root = FakeCgroup.delegated(self.kernel)

    def spawn(self, cg: CgroupLike) -> int:
        assert isinstance(cg, FakeCgroup)
        return self.kernel.spawn(cg.node, memory_bytes=8 << 20)

    def spawn_outside(self) -> int:
        return self.spawn(FakeCgroup.root(self.kernel))

    def charge(self, pid: int, size_bytes: int) -> bool:
        return self.kernel.charge(pid, size_bytes)

    def alive(self, pid: int) -> bool:
        return self.kernel.processes[pid].alive

    def end(self, pid: int) -> None:
        self.kernel.exit(pid)

    def kill_one(self, pid: int) -> None:
        self.kernel.exit(pid)

    def close(self) -> None:
        pass


class KernelBackend(Backend):
    def __init__(self) -> None:
        mount_point = proc.cgroup2_mount_point()
        assert mount_point is not None, "no cgroup v2 here"
        self._top = Cgroup.open(mount_point)
        for name in ("memory", "pids", "cpu", "io"):
            # A missing controller shows in the test that needs it.
            with contextlib.suppress(OSError):
                self._top.write("cgroup.subtree_control", f"+{name}")
        self.root = self._top.create(f"contract-{os.getpid()}-{time.monotonic_ns()}")
        self._workers: dict[int, subprocess.Popen[str]] = {}

    def spawn(self, cg: CgroupLike) -> int:
        # Charges stay where they were made, so it has to be inside before it starts.
        return self._spawn(lambda: cg.move(os.getpid()))

    def spawn_outside(self) -> int:
        return self._spawn(None)

    def _spawn(self, enter: Callable[[], None] | None) -> int:
        worker = subprocess.Popen(
            [sys.executable, "-S", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,  # noqa: PLW1509
        )
        self._workers[worker.pid] = worker
        assert self.charge(worker.pid, 0)
        return worker.pid

    def charge(self, pid: int, size_bytes: int) -> bool:
        worker = self._workers[pid]
        assert worker.stdin is not None and worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(f"{size_bytes}\n")
            worker.stdin.flush()
        return worker.stdout.readline() == "ok\n"

    def alive(self, pid: int) -> bool:
        return self._workers[pid].poll() is None

    def end(self, pid: int) -> None:
        worker = self._workers.pop(pid)
        worker.kill()
        with contextlib.suppress(BrokenPipeError):
            worker.communicate(timeout=DEADLINE_S)

    def kill_one(self, pid: int) -> None:
        self._workers[pid].kill()

    def close(self) -> None:
        if self.root.exists():
            self.root.kill()
            self.root.freeze(False)
        for pid in list(self._workers):
            self.end(pid)
        assert eventually(lambda: not self.root.exists() or not self.root.populated())
        self.root.remove_tree()
        self._top.close()
