# SPDX-License-Identifier: Apache-2.0
"""Processes in a cgroup that hold memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from agentcgroup.cgroupfs.handle import Cgroup

DEADLINE_S = 20.0
ALLOCATE = """
import mmap, sys, time
blocks = []
for _ in range(int(sys.argv[1])):
    block = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, 1 << 20, 4096):
        block[offset] = 1
    blocks.append(block)
print("ok", flush=True)
while sys.argv[2] == "again":
    for block in blocks:
        for offset in range(0, 1 << 20, 4096):
            block[offset] = 1
sys.stdin.read()
"""


def eventually(check: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + DEADLINE_S
    while not check():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.002)
    return True


@contextlib.contextmanager
def allocating(cg: Cgroup, size_mib: int, *, again: bool = False) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", ALLOCATE, str(size_mib), "again" if again else "once"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: cg.move(os.getpid()),  # noqa: PLW1509
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)
