# SPDX-License-Identifier: Apache-2.0
"""A bash that stays: how it is told commands, and how it tells that one has ended.

A command travels as data, in a file without a name that the shell opens anew for each; one
line on a pipe says that it is there. What ends a command is a line on another pipe with the
word that came with the order: nothing is read out of the command's own output. Commands
inherit none of these descriptors.

The loop around them consists of builtins alone, and is nobody's function: `declare` in a
command makes a variable of the shell, `break` leaves only the inner loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .child import WaitingChild
from .steps import Conversation, Spawn

__all__ = ["ShellProcess", "bytes_waiting"]

# Below are the numbers that commands use for files of their own, and bash from 10 on.
_LOWEST_FD = 50
_SHELL = ("bash", "--noprofile", "--norc", "-c")
# Inside, a command finds none of our descriptors; outside, bash keeps them out of programs.
_EVAL = (
    '{ builtin eval "$__agentcgroup_text"; } @ORDERS@<&- @STATUS@>&- @TEXT@<&- @INPUT@<&- @NULL@>&-'
)
# For a command, `$?` is the status of the one before; only in a condition may something
# return it without being a failure (set -e, trap ERR).
_RUN = (
    'if { __agentcgroup "$__agentcgroup_status"; } >&@NULL@ 2>&@NULL@; then @EVAL@; else @EVAL@; fi'
)
# Whatever fails in a condition ends its loop (also a redirection, which `!` does not see unless a
# group is around it), so no text is run twice. `until !`, because after `set -n` every condition
# is true: then the loops, and the shell, end. What the loop itself writes (set -x, trap DEBUG) is
# nobody's.
_LOOP = (
    '__agentcgroup() { builtin return "$1"; }; '
    # Interrupted: leave the function; in none, go on with the outermost loop, which is this one.
    "builtin trap 'return 130 2>/dev/null || continue 999' INT; "
    "__agentcgroup_order=-; "
    "until ! builtin :; do until ! { { __agentcgroup_status=$?; "
    'builtin printf "%s %s\\n" "$__agentcgroup_order" "$__agentcgroup_status" >&@STATUS@; '
    "IFS= builtin read -r -u @ORDERS@ __agentcgroup_order || builtin exit 0; "
    'IFS= builtin read -r -d "" __agentcgroup_text </dev/fd/@TEXT@ || builtin exit 125; '
    # After set -a they would be in every command's environment.
    "builtin export -n __agentcgroup_order __agentcgroup_status __agentcgroup_text; "
    "} >&@NULL@ 2>&@NULL@; }; "
    "do if { [[ $__agentcgroup_order == input* ]]; } >&@NULL@ 2>&@NULL@; "
    "then { @RUN@; } </dev/fd/@INPUT@; else @RUN@; fi; done; "
    # A `break` in a command comes here too, and goes on.
    "{ builtin :; } >&@NULL@ 2>&@NULL@ || builtin exit 125; done"
)


class _Wires:
    """The descriptors between us and a shell; its ends are closed here once it has them."""

    def __init__(self) -> None:
        self.order_end = contextlib.ExitStack()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            ours.callback(self.order_end.close)
            orders, self.orders = os.pipe()
            self.order_end.callback(os.close, self.orders)
            orders = _high(orders, theirs)
            self.status, status = os.pipe()
            ours.callback(os.close, self.status)
            status = _high(status, theirs)
            self.text = _high(os.memfd_create("agentcgroup-command"), ours)
            self.input = _high(os.memfd_create("agentcgroup-input"), ours)
            null = _high(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), theirs)
            self.numbers = {
                "ORDERS": orders, "STATUS": status, "TEXT": self.text, "INPUT": self.input,
                "NULL": null,
            }  # fmt: skip
            self.ours, self._theirs = ours.pop_all(), theirs.pop_all()
        os.set_blocking(self.status, False)

    def argv(self) -> list[str]:
        loop = _LOOP.replace("@RUN@", _RUN).replace("@EVAL@", _EVAL)
        for name, fd in self.numbers.items():
            loop = loop.replace(f"@{name}@", str(fd))
        return [*_SHELL, loop, "bash"]

    def close_theirs(self) -> None:
        self._theirs.close()

    def close(self) -> None:
        self._theirs.close()
        self.ours.close()


class ShellProcess:
    """Made by `start`. All but `kill` and `ended` is for who holds the shell's conversation."""

    @classmethod
    def start(
        cls, options: dict[str, Any], place: Callable[[int], Conversation[None]]
    ) -> Conversation[ShellProcess]:
        """One that executes bash after `place` (of its pidfd) allowed it."""
        wires = _Wires()
        try:
            waiting: WaitingChild = yield Spawn(
                wires.argv(),
                {
                    **options,
                    "stdin": subprocess.DEVNULL,
                    "stdout": subprocess.PIPE,
                    "start_new_session": True,
                    "pass_fds": tuple(wires.numbers.values()),
                },
            )
            wires.close_theirs()
            try:
                yield from place(waiting.pidfd)
                return cls(wires, waiting)
            except BaseException:
                waiting.abandon()
                raise
        except BaseException:
            wires.close()
            raise

    def __init__(self, wires: _Wires, waiting: WaitingChild) -> None:
        self._wires = wires
        self._signalling = threading.Lock()
        self._order = ""
        self._told = b""
        self.pidfd = os.pidfd_open(waiting.process.pid)
        wires.ours.callback(os.close, self.pidfd)
        # Of one that is simply dropped nothing stays open: it reads no more orders, and leaves.
        weakref.finalize(self, wires.ours.close)
        self.process = waiting.release()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                wires.ours.callback(stream.close)
        self.status_fd = wires.status
        # Something runs in its process group that no daemon ends.
        self.strays = False

    @property
    def busy(self) -> bool:
        """It was given a command, of whose end nothing is known yet."""
        return bool(self._order) and self.process.returncode is None

    @property
    def gone(self) -> bool:
        """It has ended, and `reap` was told how."""
        return self.process.returncode is not None

    def ended(self) -> bool:
        """Whether it has, reaped or not; asked from any thread."""
        with self._signalling:
            if self.pidfd < 0:
                return True
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            return bool(poll.poll(0))

    def send(self, text: bytes, given: bytes | None) -> None:
        """Have it run a command: `text` without a NUL, with `given` as its standard input."""
        _write_anew(self._wires.text, text + b"\0")
        _write_anew(self._wires.input, given or b"")
        kind = "plain" if given is None else "input"
        self._order = f"{kind}-{os.urandom(12).hex()}"
        with contextlib.suppress(BrokenPipeError):  # it has ended: its pidfd tells
            os.write(self._wires.orders, f"{self._order}\n".encode())

    def hear(self) -> tuple[int | None, bool]:
        """The status of the command if it has come; whether more may come."""
        try:
            data = os.read(self.status_fd, 1 << 12)
        except BlockingIOError:
            return None, True
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            order, _, status = line.partition(b" ")
            if order.decode(errors="replace") == self._order:
                self._order = ""
                return int(status), bool(data)
        return None, bool(data)

    def interrupt(self) -> None:
        """As Ctrl-C does: the shell, and what it runs in the foreground."""
        self._signal(signal.SIGINT, group=True)

    def kill(self) -> None:
        """From any thread. What runs in a call is the daemon's to kill; the rest dies here."""
        self._signal(signal.SIGKILL, group=self.strays)

    def _signal(self, number: int, *, group: bool) -> None:
        with self._signalling:
            if self.pidfd < 0:
                return
            with contextlib.suppress(ProcessLookupError):
                if group and not self.gone:  # not reaped: the number is still its own
                    os.killpg(self.process.pid, number)
                else:
                    signal.pidfd_send_signal(self.pidfd, number)

    def dismiss(self) -> None:
        """No more commands: it leaves when it has done what it does."""
        self._wires.order_end.close()

    def reap(self) -> int:
        """Its return code as subprocess has it, once its pidfd is readable."""
        with self._signalling:
            return self.process.wait()

    def close(self) -> None:
        """Give back every descriptor."""
        with self._signalling:
            self.pidfd = -1
            self._wires.close()


def bytes_waiting(fd: int) -> int:
    """What can be read from a pipe now."""
    size = fcntl.ioctl(fd, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", size)[0])


def _high(fd: int, owner: contextlib.ExitStack) -> int:
    """The same under a number out of the way of commands, which `owner` closes."""
    try:
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    finally:
        os.close(fd)
    owner.callback(os.close, copy)
    return copy


def _write_anew(fd: int, data: bytes) -> None:
    with open(fd, "wb", closefd=False) as file:
        file.seek(0)
        file.truncate()
        file.write(data)
