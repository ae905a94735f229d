# SPDX-License-Identifier: Apache-2.0
"""Starting replayed processes and reading what they left, also when they were killed.

The process is agentcgroup-replay, a static program of some 100 KiB: what a session holds is
then what its trace held, and hundreds of short calls start without an interpreter each.
"""

from __future__ import annotations

import array
import contextlib
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client.child import WaitingChild
from ..errors import NotSupportedError
from ..programs import find_program
from ..trace.model import Sample

__all__ = ["WorkerFiles", "WorkerReport", "start_in", "tell_start"]

# struct result of sandboxes/shim/replay.c; behind it the ns that each growth took.
_RESULT = struct.Struct("=QQQQ")
_PROGRAM = "agentcgroup-replay"
# What a call's start is made up for; one took 0.37 s on an emulated CPU (tests/bench/roundtrip.py).
_START_UP_NS = 500_000_000


@dataclass(slots=True)
class WorkerReport:
    """`completed`: it came to its end by itself; only then are there latencies."""

    completed: bool = False
    samples_done: int = 0
    peak_bytes: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    end_ns: int | None = None


class WorkerFiles:
    """Levels and result of one process, in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._levels = folder / f"{name}.levels"
        self._result = folder / f"{name}.result"

    def prepare(
        self, samples: Sequence[Sample] | None, *, speed: float, base_bytes: int, exact: bool
    ) -> list[str]:
        """Write what it plays; the command for it, which waits on its stdin for `tell_start`.
        Without samples, its levels come there, too.

        `exact`: it shrinks to each level, else by whole chunks as AgentCgroup's own replay does.
        """
        # Made here, the files' pages are nothing that the replayed session holds.
        self._result.write_bytes(bytes(_RESULT.size))
        shrinks = "exact" if exact else "whole"
        command = [_program(), shrinks, str(base_bytes), str(self._result)]
        if samples is None:
            return command
        lines = (f"{int(at_s / speed * 1e9)} {size_bytes}\n" for at_s, size_bytes in samples)
        self._levels.write_text("".join(lines), encoding="ascii")
        return [*command, str(self._levels)]

    def collect(self) -> WorkerReport:
        data = self._result.read_bytes()
        done, _, peak_bytes, end_ns = _RESULT.unpack_from(data)
        if not end_ns:
            return WorkerReport(samples_done=done, peak_bytes=peak_bytes)
        took_ns = array.array("Q", data[_RESULT.size :])
        return WorkerReport(
            completed=True,
            samples_done=done,
            peak_bytes=peak_bytes,
            latencies_ms=[ns / 1e6 for ns in took_ns],
            end_ns=end_ns,
        )


def tell_start(process: subprocess.Popen[bytes], due_ns: int, waited_ms: float = 0.0) -> None:
    """The time from which its levels count: when it was due, and what it had to wait besides.

    How long a process took to start is no part of that, within bounds: the recorded call's own
    start lies between its begin and its first sample, too, and an emulated CPU starts slowly.
    """
    start_ns = max(due_ns + int(waited_ms * 1e6), time.monotonic_ns() - _START_UP_NS)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it was killed
        process.stdin.write(b"%d\n" % start_ns)
        process.stdin.flush()


def _program() -> str:
    found = find_program(_PROGRAM)
    if found is None:
        raise NotSupportedError(
            f"cannot replay: {_PROGRAM} is not installed. Install a C compiler (Debian packages"
            " gcc libc6-dev make), then agentcgroup again"
        )
    return found


def start_in(
    place: Callable[[int], None], argv: Sequence[str], **popen_options: Any
) -> subprocess.Popen[Any]:
    """Start `argv` once `place` has put its waiting process where it belongs."""
    # A session of its own: the terminal's Ctrl-C is for the driver alone.
    child = WaitingChild(list(argv), {"start_new_session": True, **popen_options})
    try:
        place(child.process.pid)
    except BaseException:
        child.abandon()
        raise
    return child.release()
