# SPDX-License-Identifier: Apache-2.0
"""One boot: streams the command's output, learns its exit status, notices a lost guest."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestvm.qemu import CONSOLE, Machine, running

CONSOLE_LINES = 40
# A known fault of emulation: a static key flips under a running CPU. The next boot is fine.
_KNOWN_PANIC = b"Oops: int3"
_STATUS = re.compile(rb"^exit (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Ending:
    """How a boot ended: `exit_code` of the command, or None with the reason it is unknown."""

    exit_code: int | None
    reason: str = ""
    console: tuple[str, ...] = ()
    known_panic: bool = False


def boot(
    machine: Machine,
    scratch: Path,
    timeout_s: float,
    on_console: Callable[[bytes], None] | None = None,
) -> Ending:
    """Boot, stream to our own stdout and stderr, return when QEMU has ended."""
    console = bytearray()
    status = bytearray()

    def keep_console(data: bytes) -> None:
        console.extend(data)
        del console[:-65536]
        if on_console is not None:
            on_console(data)

    sinks: dict[str, Callable[[bytes], object]] = {
        CONSOLE: keep_console,
        "status": status.extend,
        "stdout": _writer(1),
        "stderr": _writer(2),
    }
    with running(machine, scratch) as (process, channels):
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            for name, channel in channels.items():
                selector.register(channel, selectors.EVENT_READ, sinks[name])
            timed_out = not _pump(selector, deadline)
        if timed_out:
            process.kill()
        complaint = _last_words(process)
    match = _STATUS.search(status)
    lines = tuple(_printable(bytes(console)))
    if match:
        return Ending(int(match[1]), console=lines)
    if timed_out:
        reason = f"no end within {timeout_s:.0f} s"
    elif complaint:
        reason = f"QEMU ended: {complaint}"
    else:
        reason = "it ended without an exit status"
    return Ending(None, reason, lines, _KNOWN_PANIC in console)


def _pump(selector: selectors.BaseSelector, deadline: float) -> bool:
    """Move data until QEMU has closed every channel; False at the deadline."""
    while selector.get_map():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for key, _ in selector.select(left):
            try:
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            except OSError:
                data = b""
            if data:
                key.data(data)
            else:
                selector.unregister(key.fileobj)
    return True


def _writer(descriptor: int) -> Callable[[bytes], None]:
    closed = False

    def write(data: bytes) -> None:
        nonlocal closed
        view = memoryview(data)
        while view and not closed:
            try:
                view = view[os.write(descriptor, view) :]
            except BrokenPipeError:
                closed = True  # the reader has seen enough; the exit status still counts

    return write


def _last_words(process: subprocess.Popen[bytes]) -> str:
    try:
        _, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
    with contextlib.suppress(IndexError):
        return errors.decode(errors="replace").strip().splitlines()[-1]
    return ""


def _printable(data: bytes) -> deque[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
    lines = (line.strip() for line in re.split(r"[\r\n]+", text))
    return deque((line for line in lines if line), maxlen=CONSOLE_LINES)
