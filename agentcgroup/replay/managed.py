# SPDX-License-Identifier: Apache-2.0
"""Sessions of a live daemon, through the SDK: a private daemon, or the one at a socket.

Session granularity: one tool call for the whole session. Tool granularity: the process
that stands for the agent sits in the session's agent/, every call of the trace is a
tool call.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..cgroupfs import files
from ..cgroupfs.handle import Cgroup
from ..client import Client
from ..errors import AgentCgroupError, CgroupGoneError, DaemonUnavailableError, RefusedError
from ..trace.jobs import SessionJob
from ..types.intents import Intent
from ..types.outcomes import Outcome, Reason
from .options import ReplayOptions
from .places import CallEnd
from .process import start_in, tell_start

__all__ = ["ManagedHost", "ManagedPlace"]

# A host that is an emulated, shared CPU needs most of this.
_READY_S = 180.0
_STOP_S = 20.0
_START_DAEMON = "import sys; from agentcgroup.cli.main import daemon_main; sys.exit(daemon_main())"


class ManagedHost:
    """`tree`: the private cgroup a daemon of our own is started for; None: use `socket`."""

    def __init__(self, options: ReplayOptions, tree: Cgroup | None, folder: Path) -> None:
        self._options = options
        self._tree = tree
        self._folder = folder
        self._log = folder / "daemon.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._sessions: list[tuple[str, Cgroup]] = []
        self.client: Client

    def __enter__(self) -> Self:
        socket = self._options.socket
        try:
            if socket is None:
                socket = str(self._folder / "run" / "agent" / "agent.sock")
                self._start_daemon(socket)
            self.client = Client(socket, require=True)
            self._await_daemon()
        except BaseException:
            self._stop_daemon()
            raise
        return self

    def place(self, job: SessionJob) -> ManagedPlace:
        """A new session without a budget of its own: who gets what is the daemon's to decide."""
        info = self.client.create_session(job.name, priority=job.priority)
        cgroup = Cgroup.open(info.cgroup)
        self._sessions.append((job.name, cgroup))
        return ManagedPlace(self.client, job.name, cgroup)

    def kill(self) -> None:
        """End whatever the sessions run; the daemon sees it as any other death."""
        for _, cgroup in self._sessions:
            with contextlib.suppress(CgroupGoneError):
                cgroup.freeze(False)
                cgroup.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for name, cgroup in self._sessions:
                with contextlib.suppress(AgentCgroupError):
                    self.client.end_session(name)
                cgroup.close()
            self.client.close()
        finally:
            self._stop_daemon()

    # --- the private daemon

    def _start_daemon(self, socket: str) -> None:
        assert self._tree is not None
        run = self._folder / "run"
        settings = {
            "root": self._tree.path,
            "socket": socket,
            "state_dir": str(self._folder / "state"),
            "run_dir": str(run),
            "mode": self._options.mode.value,
            **self._options.layer_settings(),
        }
        config = self._folder / "daemon.toml"
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        config.write_text("[daemon]\n" + "".join(lines), encoding="utf-8")
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-c", _START_DAEMON, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await_daemon(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        while True:
            try:
                self.client.version()
                return
            except DaemonUnavailableError:
                ended = self._daemon is not None and self._daemon.poll() is not None
                if ended or self._daemon is None or time.monotonic() > deadline_s:
                    raise DaemonUnavailableError(self._why_absent()) from None
            time.sleep(0.05)

    def _why_absent(self) -> str:
        if self._daemon is None:
            return (
                f"no daemon answers at {self._options.socket}:"
                " start agentcgroupd, or leave --socket out"
            )
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "the private daemon did not start: " + (" | ".join(said[-3:]) or "it said nothing")

    def _stop_daemon(self) -> None:
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


class ManagedPlace:
    def __init__(self, client: Client, session: str, cgroup: Cgroup) -> None:
        self._client = client
        self._session = session
        self._cgroup = cgroup
        self._kernel_kills = 0

    @property
    def cgroup(self) -> Cgroup:
        return self._cgroup

    def enter(self) -> float:
        return 0.0

    def leave(self) -> None:
        return

    def agent(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._cgroup.child("agent") as room:
            return start_in(room.move, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, argv: Sequence[str], intent: Intent, due_ns: int) -> CallEnd:
        call = self._client.tool_call(intent, session=self._session)
        try:
            with call:
                with call.popen(
                    argv, stdin=subprocess.PIPE, bufsize=0, start_new_session=True
                ) as process:
                    tell_start(process, due_ns, call.info.waited_ms if call.info else 0.0)
                ended_ns = time.monotonic_ns()
        except RefusedError as refusal:
            return _end(time.monotonic_ns(), refusal.outcome, ())
        outcome = call.outcome
        return _end(
            ended_ns,
            outcome,
            tuple(call.info.layers) if call.info else (),
            policy_kill=outcome is not None and self._is_policys(outcome),
        )

    def _is_policys(self, outcome: Outcome) -> bool:
        """Also out of memory, where the kernel killed nobody: its own kills are counted by the
        observer, and none is to count twice."""
        if outcome.reason is not Reason.OOM_KILLED:
            return outcome.reason is Reason.KILLED_BY_POLICY
        before = self._kernel_kills
        self._kernel_kills = self._cgroup.keyed(files.MEMORY_EVENTS).get("oom_kill", 0)
        return self._kernel_kills == before


def _end(
    ended_ns: int, outcome: Outcome | None, layers: tuple[str, ...], *, policy_kill: bool = False
) -> CallEnd:
    if outcome is None:
        return CallEnd(ended_ns, None, None, None, False, layers)
    return CallEnd(
        ended_ns,
        waited_ms=outcome.waited_ms,
        throttled_ms=outcome.throttled_ms,
        frozen_ms=outcome.frozen_ms,
        policy_kill=policy_kill,
        layers=layers,
    )
