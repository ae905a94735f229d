# SPDX-License-Identifier: Apache-2.0
"""Runs commands, each in a leaf of its own, while a recorder writes the trace.

Without a daemon: a private cgroup, no limits, no swap. Used by `trace record` (one
command) and by the recipes in traces/record (a session of many).
"""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..cgroupfs.handle import Cgroup
from ..trace.format import TraceWriter
from ..trace.recorder import Recorder
from .process import start_in
from .tree import PrivateTree, open_root

__all__ = ["SessionRecording", "record_command"]


class SessionRecording:
    """`with SessionRecording(…) as recording: recording.call([...])` a call at a time."""

    def __init__(
        self,
        out: Path,
        *,
        session: str,
        root: str = "/sys/fs/cgroup",
        interval_ms: int = 50,
        about: str = "",
    ) -> None:
        self._out = out
        self._session = session
        self._root = root
        self._interval_ms = interval_ms
        self._about = about
        self._stack = ExitStack()
        self._count = 0
        self._tree: PrivateTree
        self._recorder: Recorder

    def __enter__(self) -> Self:
        try:
            root = self._stack.enter_context(open_root(self._root))
            name = f"agentcgroup-record-{os.getpid()}"
            self._tree = self._stack.enter_context(PrivateTree(root, name, None))
            host = {
                "kernel": platform.release(),
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            }
            writer = self._stack.enter_context(TraceWriter(self._out, host))
            self._recorder = Recorder(
                writer,
                self._session,
                self._tree.cgroup,
                now_ns=time.monotonic_ns,
                interval_ms=self._interval_ms,
            )
            fields = {"about": self._about} if self._about else {}
            self._recorder.about(**fields)
            self._recorder.sample()
            self._recorder.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def call(
        self, argv: Sequence[str], *, tool: str = "Bash", text: str | None = None, **options: Any
    ) -> int:
        """Run one command to its end; its exit status, 128 + signal if it was killed."""
        self._count += 1
        call = f"c{self._count}"
        with self._tree.session(call) as leaf:
            command = (text or shlex.join(argv))[:4096]
            self._recorder.begin(call, leaf, tool=tool, command=command)
            code: int | None = None
            try:
                process = start_in(leaf.move, argv, **{"start_new_session": False, **options})
                code = process.wait()
            finally:
                leaf.kill()  # what the command left behind belongs to the call
                status = _status(code)
                self._recorder.end(call, **status)
                _remove(leaf)
        return code if code >= 0 else 128 - code

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._recorder.stop()
        finally:
            self._stack.close()


def record_command(
    argv: Sequence[str], out: Path, *, session: str, root: str, interval_ms: int
) -> int:
    """One command as a session of one call; its exit status."""
    with SessionRecording(out, session=session, root=root, interval_ms=interval_ms) as recording:
        return recording.call(list(argv), tool="command")


def _status(code: int | None) -> dict[str, int]:
    if code is None:
        return {}
    return {"exit_code": code} if code >= 0 else {"signal": -code}


def _remove(leaf: Cgroup) -> None:
    """A killed process may take a moment to leave; the tree's end removes what stays."""
    for _ in range(100):
        try:
            leaf.remove()
            return
        except OSError:
            time.sleep(0.01)
