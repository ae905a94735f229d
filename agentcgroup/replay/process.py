# SPDX-License-Identifier: Apache-2.0
"""Starting worker processes and reading what they left, also when they were killed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..client.child import WaitingChild
from ..trace.model import Sample
from . import worker

__all__ = ["WorkerFiles", "WorkerReport", "start_in"]


@dataclass(slots=True)
class WorkerReport:
    """`completed`: it left a result. Otherwise what its progress file says."""

    completed: bool = False
    samples_done: int = 0
    peak_bytes: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    end_ns: int | None = None


class WorkerFiles:
    """Plan, result and progress of one worker, in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._plan = folder / f"{name}.plan"
        self._result = folder / f"{name}.result"
        self._progress = folder / f"{name}.progress"

    def prepare(
        self,
        samples: Sequence[Sample],
        *,
        speed: float,
        base_bytes: int,
        start_ns: int,
        follow: bool = False,
    ) -> list[str]:
        """Write the plan; the command that carries it out."""
        plan = {
            "samples": [] if follow else samples,
            "speed": speed,
            "base_bytes": base_bytes,
            "chunk_bytes": worker.CHUNK_BYTES,
            "start_ns": start_ns,
            "follow": follow,
            "result": str(self._result),
            "progress": str(self._progress),
        }
        self._plan.write_text(json.dumps(plan), encoding="utf-8")
        # Isolated and without site: starts twice as fast and carries less memory.
        return [sys.executable, "-I", "-S", worker.__file__, str(self._plan)]

    def collect(self) -> WorkerReport:
        try:
            result = json.loads(self._result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._killed()
        return WorkerReport(
            completed=True,
            samples_done=result["samples_done"],
            peak_bytes=result["peak_bytes"],
            latencies_ms=result["latencies_ms"],
            end_ns=result["end_ns"],
        )

    def _killed(self) -> WorkerReport:
        try:
            done, _, peak = worker.PROGRESS.unpack(self._progress.read_bytes())
        except (FileNotFoundError, struct.error):
            return WorkerReport()
        return WorkerReport(samples_done=done, peak_bytes=peak)


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
