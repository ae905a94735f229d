# SPDX-License-Identifier: Apache-2.0
"""Execs told by the process connector, where BPF can't stop them (kernel: connector/cn_proc.c).

The kernel tells a moment after the exec, so a command runs some milliseconds outside of its
leaf, and what it forks meanwhile is moved after it. The same interface as the BPF source; who
is meant is decided here, from /proc. Times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bpf.boundary import Own, Stopped
from ..cgroupfs import proc
from ..errors import NotSupportedError
from ..log import get_logger
from ..types.events import BoundaryEvent, ExitEvent
from ..types.sessions import EVERY_PROGRAM

__all__ = ["RACE", "ProcessConnector"]

RACE = "it tells of execs a moment later: until then a command runs outside of its leaf"

_EXEC, _EXIT = 0x2, 0x80000000
_ANCESTORS_ASKED = 8
_PAUSE_S = 0.05
_log = get_logger(__name__)


@dataclass(slots=True)
class _Agent:
    """Whose execs count, in the cgroup with this id."""

    cgroup_id: int
    programs: frozenset[str]
    ignored: frozenset[str]
    entrants: bool


@dataclass(slots=True)
class _Inbox:
    """What the reading thread hands over: (what, pid, exit code)."""

    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    bell: int = -1
    counts: dict[str, int] = field(
        default_factory=lambda: {"seen": 0, "stopped": 0, "overrun": 0, "gone": 0}
    )


class ProcessConnector:
    """`open` one; `fileno()` is readable when there is something to `read`."""

    def __init__(self) -> None:
        """Use `open`."""
        self._inbox = _Inbox(bell=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._agents: dict[int, _Agent] = {}
        self._paths: dict[str, int] = {}
        self._own: dict[int, tuple[int, Own]] = {}
        self._host_mounts = proc.namespace_id(1, "mnt")
        self._closing = False
        self._ready = threading.Event()
        self._why_not = ""
        self._thread = threading.Thread(target=self._run, name="process-events", daemon=True)

    @classmethod
    def open(cls) -> ProcessConnector:
        """Raises NotSupportedError with the reason."""
        connector = cls()
        connector._thread.start()
        connector._ready.wait()
        if connector._why_not:
            connector.close()
            raise NotSupportedError(connector._why_not)
        return connector

    # --- what it is told

    def renew(self, until_ns: int) -> None:
        """Nobody is stopped, so there is nothing to bound."""

    def add_agent(
        self, cgroup_id: int, programs: Iterable[str], ignored: Iterable[str], *, entrants: bool
    ) -> None:
        agent = _Agent(cgroup_id, frozenset(programs), frozenset(ignored), entrants)
        self._agents[cgroup_id] = agent

    def remove_agent(self, cgroup_id: int) -> None:
        self._agents.pop(cgroup_id, None)

    def own(self, pid: int, start_ticks: int, kind: Own) -> None:
        self._own[pid] = (start_ticks, kind)

    def disown(self, pid: int) -> None:
        self._own.pop(pid, None)

    def extend(self, stopped: Stopped, due_ns: int) -> None:
        """Nobody stands still."""

    def forget(self, pid: int) -> None:
        """Nobody stands still."""

    # --- what it tells

    def fileno(self) -> int:
        return self._inbox.bell

    def read(self) -> list[BoundaryEvent | ExitEvent]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._inbox.bell)
        events: list[BoundaryEvent | ExitEvent] = []
        while self._inbox.waiting:
            what, pid, code = self._inbox.waiting.popleft()
            event = self._exec(pid) if what == _EXEC else _exit(pid, code)
            if event is not None:
                events.append(event)
        return events

    def stopped(self) -> list[Stopped]:
        return []

    def stopped_process(self, pid: int) -> Stopped | None:
        return None

    def counts(self) -> dict[str, int]:
        return dict(self._inbox.counts)

    def programs(self) -> list[str]:
        return []

    def close(self) -> None:
        """The thread ends with the next process event of the host, or with this process."""
        self._closing = True
        bell, self._inbox.bell = self._inbox.bell, -1
        os.close(bell)

    # --- parts

    def _run(self) -> None:
        """In the thread: the library's socket belongs to the thread that made it."""
        socket = self._listening()
        self._ready.set()
        while socket is not None and not self._closing:
            try:
                for message in socket.get(msg_seq=-1):
                    self._note(message)
            except Exception as error:
                # ENOBUFS: events were lost, more will come.
                self._inbox.counts["overrun"] += 1
                _log.debug("process events: %s", error)
                time.sleep(_PAUSE_S)
        if socket is not None:
            socket.close()

    def _listening(self) -> Any:
        try:
            from pyroute2.netlink.connector.cn_proc import ProcEventSocket  # noqa: PLC0415

            socket = ProcEventSocket()
            socket.bind()
            socket.control(listen=True)
        except ImportError:
            self._why_not = "it needs pyroute2: pip install 'agentcgroup[host]'"
        except Exception as error:  # whatever a library raises for what the kernel refused
            self._why_not = f"the kernel refuses it: {error}"
        else:
            return socket
        return None

    def _note(self, message: Any) -> None:
        what = message["what"]
        if what not in (_EXEC, _EXIT) or message["process_pid"] != message["process_tgid"]:
            return
        code = message["exit_code"] if what == _EXIT else 0
        self._inbox.waiting.append((what, message["process_tgid"], code))
        with contextlib.suppress(OSError):
            os.eventfd_write(self._inbox.bell, 1)

    def _exec(self, pid: int) -> BoundaryEvent | None:
        agent = self._agent_of(pid)
        status = proc.status(pid) if agent is not None else None
        if agent is None or status is None or self._kind(pid, status.start_ticks) is not None:
            return None
        shell = self._shell_above(status.ppid, agent)
        if shell is None and not self._begins_call(pid, status.ppid, agent):
            return None
        self._inbox.counts["seen"] += 1
        return BoundaryEvent(
            t_ns=time.monotonic_ns(), pid=pid, ppid=status.ppid, start_ticks=status.start_ticks,
            cgroup_id=agent.cgroup_id, command=proc.cmdline(pid, 192) or "unknown",
            filename=_link(pid), stopped=False, shell_pid=shell,
        )  # fmt: skip

    def _agent_of(self, pid: int) -> _Agent | None:
        path = proc.cgroup_path(pid)
        if path is None:
            self._inbox.counts["gone"] += 1
            return None
        cgroup_id = self._paths.get(path)
        if cgroup_id is None or cgroup_id not in self._agents:
            try:
                cgroup_id = Path(f"{proc.cgroup2_mount_point()}{path}").stat().st_ino
            except OSError:
                return None
            if cgroup_id in self._agents:
                self._paths[path] = cgroup_id
        return self._agents.get(cgroup_id)

    def _kind(self, pid: int, start_ticks: int) -> Own | None:
        known = self._own.get(pid)
        return known[1] if known is not None and known[0] == start_ticks else None

    def _shell_above(self, pid: int, agent: _Agent) -> int | None:
        for _ in range(_ANCESTORS_ASKED):
            status = proc.status(pid)
            if status is None or self._agent_of(pid) is not agent:
                return None
            if self._kind(pid, status.start_ticks) is Own.SHELL_IN_CALL:
                return pid
            pid = status.ppid
        return None

    def _begins_call(self, pid: int, ppid: int, agent: _Agent) -> bool:
        words = _argv(pid)
        by_file = Path(_link(pid)).name
        names = {by_file, *(Path(word).name for word in words[:1])}
        # Of a script the interpreter runs: its own name is the second word.
        if names & agent.ignored or {Path(w).name for w in words[1:2]} & agent.ignored:
            return False
        if agent.entrants and self._agent_of(ppid) is not agent:
            return proc.namespace_id(pid, "mnt") != self._host_mounts
        return EVERY_PROGRAM in agent.programs or bool(names & agent.programs)


def _argv(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in raw.split(b"\0") if word]


def _link(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def _exit(pid: int, code: int) -> ExitEvent:
    signal = code & 0x7F
    return ExitEvent(
        t_ns=time.monotonic_ns(), pid=pid, cgroup_id=0,
        exit_code=None if signal else code >> 8 & 0xFF, signal=signal or None,
    )  # fmt: skip
