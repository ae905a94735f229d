# SPDX-License-Identifier: Apache-2.0
"""What `host.status` and `host.probe` tell. Keys are documented in docs/protocol.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .. import version
from ..cgroupfs.api import CgroupLike
from ..policy.accounting import host_free_bytes
from ..protocol.messages import SessionInfo
from ..types.sessions import Mode
from .core import Core
from .cpu_scheduler import CpuScheduler
from .exec_calls import ExecCalls
from .exec_source import connector_finding
from .memcg_hooks import MemcgHooks
from .signals import Signals

__all__ = ["Status"]


class Status:
    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        signals: Signals,
        hooks: MemcgHooks,
        cpu: CpuScheduler,
        mode: Mode,
        guardian_pid: Callable[[], int | None],
        server_stats: Callable[[], dict[str, int]],
        supervised: Callable[[], dict[str, Any]],
        containers: Callable[[], dict[str, Any]],
        execs: ExecCalls,
    ) -> None:
        self._core = core
        self._root = root
        self._signals = signals
        self._hooks = hooks
        self._cpu = cpu
        self._mode = mode
        self._guardian_pid = guardian_pid
        self._server_stats = server_stats
        self._supervised = supervised
        self._containers = containers
        self._execs = execs
        self._started_ns = core.clock.now_ns()

    def report(self, sessions: list[SessionInfo]) -> dict[str, Any]:
        state = self._core.state
        return {
            "version": version(),
            "pid": os.getpid(),
            "mode": self._mode.value,
            "root": self._root.path,
            "uptime_s": round((self._core.clock.now_ns() - self._started_ns) / 1e9, 3),
            "host": {
                "budget_bytes": state.budget_bytes,
                "free_bytes": host_free_bytes(state),
            },
            "layers": {
                "memory": self._signals.layers() + self._cpu.memory_layers() + self._hooks.layers(),
                "cpu": ["files", *self._cpu.layers()],
                "boundary": self._execs.layers(),
            },
            "events_source": self._signals.source(),
            "missing": {
                **self._signals.missing,
                **self._hooks.missing,
                **self._cpu.missing,
                **self._execs.missing,
            },
            "bpf": {"programs": self._signals.programs(), "dropped": self._signals.dropped()},
            "memcg_ops": self._hooks.report(),
            "scheduler": self._cpu.report(),
            "boundary": self._execs.report(),
            "supervisor": self._supervised(),
            "containers": self._containers(),
            "guardian_pid": self._guardian_pid(),
            "decisions": self._core.decisions.counts,
            "server": self._server_stats(),
            "sessions": [info.model_dump(mode="json") for info in sessions],
        }

    def probe(self) -> dict[str, Any]:
        from ..bpf.probe import probe_all as probe_bpf  # noqa: PLC0415  (only doctor asks)
        from ..cgroupfs.probe import probe_all as probe_files  # noqa: PLC0415

        found = [(c.name, c.answer.value, c.reason) for c in probe_files(self._root)]
        found += [(f"bpf {f.name}", f.answer.value, f.reason) for f in probe_bpf()]
        found.append(("process connector", *connector_finding()))
        found.append(("scheduler", *self._cpu.finding()))
        return {
            "capabilities": [
                {"name": name, "answer": answer, "reason": reason} for name, answer, reason in found
            ]
        }
