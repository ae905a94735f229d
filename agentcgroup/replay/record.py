# SPDX-License-Identifier: Apache-2.0
"""Runs commands, each in a leaf of its own, while a recorder writes the trace.

Without a daemon: a private cgroup, no limits, no swap. Used by `trace record` (one
command) and by the recipes in traces/record (a session of many). Or follows a session of
a live daemon, which makes the cgroups.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..cgroupfs.handle import Cgroup
from ..cgroupfs.kept import KeptFiles
from ..client import Client
from ..errors import AgentCgroupError
from ..trace.format import TraceWriter
from ..trace.recorder import Recorder
from .process import start_in
from .tree import PrivateTree, open_root

__all__ = ["SessionRecording", "record_command", "record_session"]

_GONE_GRACE_S = 1.0


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
            writer = self._stack.enter_context(TraceWriter(self._out, _host()))
            self._recorder = Recorder(
                writer,
                self._session,
                self._stack.enter_context(KeptFiles(self._tree.cgroup)),
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
        with self._tree.session(call) as leaf, KeptFiles(leaf) as kept:
            command = (text or shlex.join(argv))[:4096]
            self._recorder.begin(call, kept, tool=tool, command=command)
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


def _host() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def record_command(
    argv: Sequence[str], out: Path, *, session: str, root: str, interval_ms: int
) -> int:
    """One command as a session of one call; its exit status."""
    with SessionRecording(out, session=session, root=root, interval_ms=interval_ms) as recording:
        return recording.call(list(argv), tool="command")


def record_session(
    name: str, out: Path, *, interval_ms: int, socket: str | None, stop: threading.Event
) -> int:
    """A live daemon's session until it ends or `stop` is set; how many calls it began.

    Beginnings, ends, decisions and steps are the daemon's own records, at its times; memory,
    CPU, I/O and pressure of the session and its calls are sampled here.
    """
    client = Client(socket)
    cgroup = Cgroup.open(client.session(name).cgroup)
    with ExitStack() as stack:
        stack.enter_context(cgroup)
        writer = stack.enter_context(TraceWriter(out, _host()))
        kept = stack.enter_context(KeptFiles(cgroup))
        recorder = Recorder(writer, name, kept, now_ns=time.monotonic_ns, interval_ms=interval_ms)
        recorder.about(about="recorded from a live session")
        recorder.sample()
        recorder.start()
        follower = _Follower(client, name, cgroup, recorder, stop)
        try:
            follower.start()
            while not stop.wait(0.1) and recorder.error is None and cgroup.exists():
                pass
            # What the daemon said just before the end may still be on its way.
            follower.ended.wait(0 if stop.is_set() else _GONE_GRACE_S)
        finally:
            stop.set()
            recorder.stop()
            follower.close()
    if follower.error is not None:
        raise follower.error
    return follower.calls


class _Follower(threading.Thread):
    """Passes the daemon's records on, and tells the recorder which leaves there are."""

    KINDS = ("session", "call_begin", "call_end", "decision", "step", "dropped")

    def __init__(
        self, client: Client, session: str, cgroup: Cgroup, recorder: Recorder,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        super().__init__(name="trace events", daemon=True)
        self._events = client.events(session, kinds=list(self.KINDS))
        self._cgroup = cgroup
        self._recorder = recorder
        self._stop_event = stop
        self._leaves: dict[str, KeptFiles] = {}
        self.ended = threading.Event()
        self.calls = 0
        self.error: AgentCgroupError | None = None

    def run(self) -> None:
        try:
            for record in self._events:
                if self._stop_event.is_set():
                    return
                self._note(record)
                if record["kind"] == "session" and record.get("event") == "end":
                    self.ended.set()
                    return
        except AgentCgroupError as problem:
            if not self._stop_event.is_set():
                self.error = problem
                self._stop_event.set()

    def _note(self, record: dict[str, Any]) -> None:
        call = record.get("call")
        if record["kind"] == "call_end" and call in self._leaves:
            self._recorder.unwatch(call)
            self._leaves.pop(call).close()
        self._recorder.note(record)
        if record["kind"] == "call_begin" and call is not None:
            self.calls += 1
            with contextlib.suppress(OSError):  # it may have ended already
                with self._cgroup.child("tools") as tools:
                    leaf = KeptFiles(tools.child(call), owned=True)
                self._leaves[call] = leaf
                self._recorder.watch(call, leaf)

    def close(self) -> None:
        for call, leaf in self._leaves.items():
            self._recorder.unwatch(call)
            leaf.close()


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
