# SPDX-License-Identifier: Apache-2.0
"""A child that waits before it becomes the command, so that it can be placed first.

The child is a tiny launcher blocked on a pipe: one byte and it executes the command,
end of file and it leaves without having run anything. The launcher is the static
`agentcgroup-run --hold-fd` where it is found, else the system's shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidValueError
from ..programs import find_program

__all__ = ["WaitingChild", "command_line", "normalize", "static_launcher"]

# A shell's own `<&N` knows one digit only in some shells; /proc opens any descriptor.
_SHELL_WAIT = 'read -r agentcgroup_go </proc/self/fd/{fd} || exit 125; {close}exec "$@"'
_REFUSED_OPTIONS = {
    "executable": "put the program first in the argument list",
    "preexec_fn": "it would run outside the tool call; do that work in the command itself",
}


def static_launcher() -> str | None:
    """Path of agentcgroup-run, or None."""
    return find_program("agentcgroup-run")


def normalize(args: Any, *, shell: bool) -> list[str]:
    """The argument list that subprocess would run for `args`."""
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    argv = [os.fsdecode(word) for word in words]
    if not argv:
        raise InvalidValueError("args", args, "give a program and its arguments")
    return ["/bin/sh", "-c", *argv] if shell else argv


def command_line(argv: Sequence[str]) -> str:
    """What learning and feedback know the command by."""
    return shlex.join(argv)[:4096]


class WaitingChild:
    """A started launcher: `release` makes it the command, `abandon` ends it unused."""

    def __init__(self, argv: list[str], popen_options: dict[str, Any]) -> None:
        for name, remedy in _REFUSED_OPTIONS.items():
            if popen_options.get(name) is not None:
                raise InvalidValueError(name, popen_options[name], remedy)
        _require_executable(argv[0], popen_options)
        self.argv = argv
        hold_fd, self._go_fd = os.pipe()
        try:
            self.process: subprocess.Popen[Any] = _spawn(argv, hold_fd, popen_options)
        except BaseException:
            os.close(self._go_fd)
            raise
        finally:
            os.close(hold_fd)
        try:
            self.pidfd = os.pidfd_open(self.process.pid)
        except BaseException:
            self.pidfd = -1
            self.abandon()
            raise
        self.process.args = argv

    def release(self) -> subprocess.Popen[Any]:
        """Let it execute the command."""
        with contextlib.suppress(BrokenPipeError):  # killed while it waited
            os.write(self._go_fd, b"\n")
        self._close()
        return self.process

    def abandon(self) -> None:
        """End it; the command never ran."""
        self._close()
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.wait()

    def _close(self) -> None:
        os.close(self._go_fd)
        if self.pidfd >= 0:
            os.close(self.pidfd)


def _spawn(argv: list[str], hold_fd: int, popen_options: dict[str, Any]) -> subprocess.Popen[Any]:
    options = dict(popen_options)
    if options.get("close_fds") is False:
        os.set_inheritable(hold_fd, True)
    else:
        options["pass_fds"] = (*options.get("pass_fds", ()), hold_fd)
    launcher = static_launcher()
    if launcher is not None:
        return subprocess.Popen([launcher, "--hold-fd", str(hold_fd), "--", *argv], **options)
    close = f"exec {hold_fd}<&-; " if hold_fd <= 9 else ""
    script = _SHELL_WAIT.format(fd=hold_fd, close=close)
    return subprocess.Popen(["/bin/sh", "-c", script, "sh", *argv], **options)


def _require_executable(program: str, options: dict[str, Any]) -> None:
    """Fail as subprocess does; a launcher would only report it as exit code 127."""
    cwd = os.fsdecode(options.get("cwd") or "")
    if "/" in program:
        candidates = [str(Path(cwd) / program)]
    else:
        candidates = [
            str(Path(cwd) / folder / program) for folder in os.get_exec_path(options.get("env"))
        ]
    found = [path for path in candidates if Path(path).exists()]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    if not any(Path(path).is_file() and os.access(path, os.X_OK) for path in found):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
