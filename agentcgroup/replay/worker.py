# SPDX-License-Identifier: Apache-2.0
"""One replayed process: holds, at every moment, the memory its part of a trace held.

Run as `python -m agentcgroup.replay.worker PLAN` or, quicker, as a script; standard
library only. PLAN is a JSON file: `samples` (seconds, bytes), `speed`, `base_bytes`,
`chunk_bytes`, `start_ns` (CLOCK_MONOTONIC), `result`, `progress`, and `follow`: true
means that levels in bytes come as lines on stdin instead of from the samples.

Grows in chunks of at most `chunk_bytes`, each a private mapping touched by one memset;
the time of a whole growth step is one allocation latency. Shrinks by giving up whole
chunks, last first, until it holds no more than the target, so it may end up below it.
Base memory is extra and never counted. Who is killed leaves no result file, only the
progress file (three 64-bit numbers: samples done, bytes held, peak).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator

PROGRESS = struct.Struct("<QQQ")
CHUNK_BYTES = 64 << 20
_SPIN_NS = 200_000


class Chunk:
    """A touched private mapping."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._map = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        window = ctypes.c_char.from_buffer(self._map)
        ctypes.memset(ctypes.addressof(window), 1, size_bytes)

    def release(self) -> None:
        self._map.close()


class Memory:
    """What the worker holds; `allocate` makes a chunk that has size_bytes and release()."""

    def __init__(
        self,
        chunk_bytes: int = CHUNK_BYTES,
        allocate: Callable[[int], Chunk] = Chunk,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.chunk_bytes = chunk_bytes
        self.held_bytes = 0
        self.peak_bytes = 0
        self.latencies_ms: list[float] = []
        self._allocate = allocate
        self._now_ns = now_ns
        self._chunks: list[Chunk] = []

    def reach(self, target_bytes: int) -> None:
        """Hold `target_bytes`, or a little less after shrinking."""
        if target_bytes > self.held_bytes:
            begin_ns = self._now_ns()
            while self.held_bytes < target_bytes:
                size = min(self.chunk_bytes, target_bytes - self.held_bytes)
                self._chunks.append(self._allocate(size))
                self.held_bytes += size
            self.latencies_ms.append((self._now_ns() - begin_ns) / 1e6)
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
            return
        while self._chunks and self.held_bytes > target_bytes:
            chunk = self._chunks.pop()
            self.held_bytes -= chunk.size_bytes
            chunk.release()


def sleep_until(at_ns: int) -> None:
    while (left_ns := at_ns - time.monotonic_ns()) > 0:
        time.sleep(max(0, left_ns - _SPIN_NS) / 1e9)


def timed_levels(
    samples: Iterable[tuple[float, int]],
    speed: float,
    begin_ns: int,
    wait: Callable[[int], None] = sleep_until,
) -> Iterator[int]:
    """Yields each sample's bytes when its time has come; late ones follow at once."""
    for offset_s, size in samples:
        wait(begin_ns + int(offset_s / speed * 1e9))
        yield size


def followed_levels() -> Iterator[int]:
    """Levels from stdin; each is acknowledged by a line once the next is asked for."""
    for line in sys.stdin:
        yield int(line)
        sys.stdout.write("\n")
        sys.stdout.flush()


def play(levels: Iterable[int], memory: Memory, report: Callable[[int, Memory], None]) -> int:
    """Go through the levels; the number of them reached."""
    done = 0
    for level in levels:
        memory.reach(level)
        done += 1
        report(done, memory)
    return done


def write_atomically(path: str, data: object) -> None:
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="utf-8") as stream:
        json.dump(data, stream)
    os.replace(beside, path)  # noqa: PTH105  (pathlib would double the start-up time)


def main(arguments: list[str]) -> int:
    with open(arguments[0], encoding="utf-8") as stream:
        plan = json.load(stream)
    progress = os.open(plan["progress"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def report(done: int, memory: Memory) -> None:
        os.pwrite(progress, PROGRESS.pack(done, memory.held_bytes, memory.peak_bytes), 0)

    sleep_until(plan["start_ns"])
    base = Memory(plan["chunk_bytes"])
    base.reach(plan["base_bytes"])
    memory = Memory(plan["chunk_bytes"])
    begin_ns = time.monotonic_ns()
    if plan["follow"]:
        sys.stdout.write("\n")  # the base memory is there
        sys.stdout.flush()
        levels = followed_levels()
    else:
        levels = timed_levels(plan["samples"], plan["speed"], begin_ns)
    done = play(levels, memory, report)
    write_atomically(
        plan["result"],
        {
            "samples_done": done,
            "peak_bytes": memory.peak_bytes,
            "latencies_ms": memory.latencies_ms,
            "begin_ns": begin_ns,
            "end_ns": time.monotonic_ns(),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
