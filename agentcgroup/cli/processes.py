# SPDX-License-Identifier: Apache-2.0
"""Waiting for a command as a good parent: signals go on to it, its status comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["exit_status", "usable_cpus", "wait_forwarding"]

_FORWARDED = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def usable_cpus() -> int:
    """Cores this process may run on, which is what a command that asks is told."""
    return len(os.sched_getaffinity(0))


def wait_forwarding(process: subprocess.Popen[Any]) -> int:
    """The return code as subprocess has it, however often we are signalled meanwhile."""
    with _forwarding(process):
        return process.wait()


def exit_status(returncode: int) -> int:
    """As a shell says it: 128 + the signal's number for a killed process."""
    return 128 - returncode if returncode < 0 else returncode


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen[Any]) -> Iterator[None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        # The terminal signals its whole foreground group: the command has it already.
        if number not in _FROM_TERMINAL or not _on_terminal():
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (*_FORWARDED, *_FROM_TERMINAL)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_terminal() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
