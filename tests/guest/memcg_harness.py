# SPDX-License-Identifier: Apache-2.0
"""The optional module in a guest, and a process that allocates on demand and times itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bpf_harness import entering

KMOD = Path("/opt/agentcgroup/kmod/agentcgroup_memcg.ko")
STATS = Path("/sys/module/agentcgroup_memcg/parameters/stats")
# Roles whose kernels' headers the archive keeps; there the module must be.
ROLES_WITH_MODULE = {"newest", "noscx"}

_TOUCH = """
import mmap, sys, time
block = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.madvise(mmap.MADV_NOHUGEPAGE)
at = 0
for line in sys.stdin:
    end = at + int(line)
    start = time.monotonic()
    if end < at:
        block.madvise(mmap.MADV_DONTNEED, end, at - end)
    for offset in range(at, end, 4096):
        block[offset] = 1
    at = end
    print(time.monotonic() - start, flush=True)
"""


class Toucher:
    """A process in `where` that touches fresh memory and tells how long it took."""

    def __init__(self, where: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _TOUCH],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=entering(where),  # noqa: PLW1509
        )  # fmt: skip

    def start(self, size_bytes: int) -> None:
        """Less than nothing: give back what was touched last."""
        assert self.process.stdin is not None
        print(size_bytes, file=self.process.stdin, flush=True)

    def finish(self) -> float:
        """Seconds that the touch took."""
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())

    def touch(self, size_bytes: int) -> float:
        self.start(size_bytes)
        return self.finish()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Toucher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stats() -> dict[str, int]:
    words = STATS.read_text().split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def current_bytes(where: Path) -> int:
    return int((where / "memory.current").read_text())


def modprobe(*arguments: str) -> subprocess.CompletedProcess[str]:
    """insmod or rmmod, told apart by what is given."""
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


def unload(patience_s: float = 30.0) -> float:
    """rmmod, tried until nobody uses the module; seconds that it took."""
    start = time.monotonic()
    while (done := modprobe("rmmod", "agentcgroup_memcg")).returncode:
        assert time.monotonic() - start < patience_s, done.stderr
        time.sleep(0.05)
    return time.monotonic() - start
