# SPDX-License-Identifier: Apache-2.0
"""The command line in a fork of the test: importing it anew costs an emulated CPU seconds.

Apart from that it is the program: its own process, environment, output and exit status.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "agentcgroup", "contents", "program_pids"]

_LOADED = ("app", "daemon", "main", "trace")
_PATIENCE_S = 120.0
CGROUPFS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


def agentcgroup(*arguments: str, uid: int = 0, **environ: str) -> Ended:
    """`agentcgroup ARGUMENTS…` until it ends, with these variables on top, as this user."""
    for name in _LOADED:
        importlib.import_module(f"agentcgroup.cli.{name}")
    importlib.import_module("agentcgroup.daemon.main")
    importlib.import_module("agentcgroup.client")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _become(arguments, environ, uid, out.fileno(), err.fileno())
        status = _wait(pid)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return Ended(status, *texts)


def _wait(pid: int) -> int:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError(f"the command did not end within {_PATIENCE_S:g} s")
        time.sleep(0.01)


def _become(
    arguments: tuple[str, ...], environ: dict[str, str], uid: int, out: int, err: int
) -> None:
    """Never returns."""
    status = 70
    try:
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        null = os.open("/dev/null", os.O_RDONLY)
        for fd, old in ((null, 0), (out, 1), (err, 2)):
            os.dup2(fd, old)
        for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
        os.environ.update(environ)
        sys.argv = ["agentcgroup", *arguments]
        from agentcgroup.cli.main import main

        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def contents(*directories: Path) -> set[str]:
    """Every file and directory below these, to compare before and after."""
    found = set()
    for top in directories:
        for directory, names, files in os.walk(top):
            found.update(f"{directory}/{name}" for name in names)
            if not directory.startswith(str(CGROUPFS)):
                found.update(f"{directory}/{name}" for name in files)
    return found


def program_pids() -> set[int]:
    """Processes whose command line names agentcgroup, the tests' own included."""
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"agentcgroup" in cmdline.read_bytes():
                found.add(int(cmdline.parent.name))
        except OSError:
            continue
    return found
