# SPDX-License-Identifier: Apache-2.0
"""Named points where a test may kill the daemon, to prove that a crash there loses nothing.

`AGENTCGROUP_CRASH_AT=begin.placed:2` kills the process with SIGKILL the second time it
passes that point. Without the variable a point is one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

__all__ = ["POINTS", "crash_point"]

POINTS = (
    "begin.checked",
    "begin.admitted",
    "begin.made",
    "begin.limited",
    "begin.recorded",
    "begin.placed",
    "begin.confirmed",
    "begin.answered",
    "grant.decided",
    "grant.written",
    "end.received",
    "end.killed",
    "end.figures",
    "end.stored",
    "end.removed",
    "end.answered",
)


def _armed() -> tuple[str, int]:
    name, _, count = os.environ.get("AGENTCGROUP_CRASH_AT", "").partition(":")
    return name, int(count) if count.isdigit() else 1


_name, _left = _armed()


def crash_point(name: str) -> None:
    global _left  # noqa: PLW0603  (a countdown of this process)
    if name != _name or not name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
