# SPDX-License-Identifier: Apache-2.0
"""Composition root: the one place that picks concrete classes, starts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from ..cgroupfs import tree
from ..cgroupfs.handle import Cgroup
from ..cgroupfs.libc import lock_memory, refuse_huge_pages
from ..clock import MonotonicClock
from ..errors import ConfigError, NotPermittedError
from ..log import get_logger, setup_logging
from ..policy.delay import DelayTuning
from ..policy.state import PolicyConfig
from ..protocol.sockets import admin_socket_path, checked_socket_path
from ..trace.format import TraceWriter
from ..types import inputs as i
from . import in_place, systemd
from .adoption import Adoption
from .calls import Calls
from .config import Config, load_config
from .containers import Containers
from .core import Core
from .cpu_scheduler import CpuScheduler
from .decisions import Decisions
from .ending import Ender
from .exec_calls import ExecCalls
from .guardian import Guardian
from .handlers import Handlers
from .janitor import Janitor
from .memcg_hooks import MemcgHooks
from .outcomes import OutcomeStore
from .places import Places
from .records import CallRecord
from .recovery import Recovery
from .registry import TreeRegistry
from .rooting import host_budget_bytes, lock_root, open_root
from .sampler import Sampler
from .server import Server
from .server_listen import check_free
from .session_watch import SessionWatch
from .sessions import Sessions
from .signals import Signals
from .status import Status
from .supervision import Supervision, load_predictor
from .takeover import Takeover

__all__ = ["Daemon", "run"]

_SWITCH_INTERVAL_S = 0.0005

_log = get_logger(__name__)


class Daemon:
    """start, wait, stop. Everything it starts it also ends."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._stopping = asyncio.Event()
        self._watchdog: asyncio.Task[None] | None = None
        self._parts = contextlib.ExitStack()

    async def start(self) -> None:
        """Raises ConfigError or NotPermittedError before anything is left behind."""
        if os.geteuid() != 0:
            raise NotPermittedError("the daemon needs root: run it with sudo or as a service")
        sockets = (self.config.daemon.socket, admin_socket_path(self.config.daemon.socket))
        for path in sockets:
            check_free(checked_socket_path(path))  # before anything in the tree is touched
        with contextlib.ExitStack() as undo:
            undo.callback(self._parts.close)
            await self._start(*sockets)
            undo.pop_all()
        systemd.notify("READY=1")
        interval_s = systemd.watchdog_interval_s()
        if interval_s is not None:
            self._watchdog = asyncio.create_task(_pat_watchdog(interval_s))

    def _open_parts(self) -> int:
        """What can fail for a wrong configuration, in the order of least harm; the budget.

        `_parts` takes back what was done so far, last things first.
        """
        config, parts = self.config, self._parts
        self.root, made_root = open_root(config.daemon.root)
        parts.callback(self.root.close)
        if made_root:
            parts.callback(self._remove_root)
        parts.callback(os.close, lock_root(self.root))
        budget = host_budget_bytes(self.root, config.host.memory_reserve)
        self._run_dir = _run_dir(config)
        self._decisions = Decisions(_decision_log(config))
        parts.callback(self._decisions.close)
        self.core = Core(budget, _policy(config), MonotonicClock(), self._decisions)
        parts.callback(self.core.close)
        self._store = _outcome_store(config)
        parts.callback(self._store.close)
        return budget

    async def _start(self, agent_socket: str, admin_socket: str) -> None:
        config = self.config
        predictor = load_predictor(config.supervisor)
        budget = self._open_parts()
        supervision = Supervision(self.core, config.supervisor, predictor)
        tree_path = tree.proc_path(self.root)
        self._open_layers(tree_path)
        places = Places(self.core, tree_path)
        sessions = Sessions(
            self.core, self.root, config.session, config.daemon.mode, Cgroup.open, places,
            config.boundary,
        )  # fmt: skip
        ender = Ender(self.core, self.root, self._store)
        calls = Calls(self.core, places, self._store, ender, config.call, config.session)
        calls.watch_leaf, calls.unwatch_leaf = self._watch, self._unwatch
        calls.layers = self._layers
        calls.drain = self._signals.drain
        self._execs = ExecCalls(
            self.core, self.root, calls, places, config.boundary,
            config.daemon.guardian_timeout_s,
        )  # fmt: skip
        self._parts.callback(self._execs.close)
        watch = SessionWatch(self._signals, self._execs)
        Sampler(
            self.core, find_biggest=not self._signals.has_bpf("oom"), watch_owner=calls.watch_owner
        )
        takeover = Takeover(self.core, self.root)
        self._guardian = Guardian(
            self.root, self._run_dir / "guardian.fifo", config.daemon.guardian_timeout_s, budget,
            spawn=not _guardian_is_a_service(), on_beat=(takeover.check, self._execs.beat),
        )  # fmt: skip
        self._containers = Containers(
            self.core, self.root, sessions, config.docker, Cgroup.open, watch.begin,
        )  # fmt: skip
        self._status = Status(
            self.core, self.root, self._signals, self._hooks, self._cpu, config.daemon.mode,
            lambda: self._guardian.pid, self._server_stats, supervision.status,
            self._containers.report, self._execs,
        )  # fmt: skip
        adoption = Adoption(sessions, self._containers, Cgroup.open, watch)
        handlers = Handlers(
            self.core, sessions, calls, self._store, watch, self._status, adoption, supervision,
        )  # fmt: skip
        self._containers.end_session = handlers.end_session
        registry = TreeRegistry(self.core, self._store, places)
        self._server = Server(handlers, registry)
        recovery = Recovery(
            self.core, self.root, sessions, calls, ender, self._store, watch, Cgroup.open,
        )  # fmt: skip
        try:
            if config.daemon.guardian:
                # Before the tree is read: it must not act on what we go by.
                self._guardian.start()
            self.core.learn(reversed(self._store.newest(None, config.outcomes.keep)))
            found = await recovery.run()
            await self._server.start(agent_socket, admin_socket, config.daemon.group)
        except BaseException:
            await self._guardian.stop()
            raise
        self._janitor = Janitor(
            self.core, handlers.end_if_idle, handlers.end_session, self._signals.drain
        )
        self._janitor.start()
        self._execs.start()
        self._containers.start()
        _log.info(
            "ready: root %s, budget %d MiB, mode %s, memory events by %s, found %s",
            self.root.path, budget >> 20, config.daemon.mode.value, self._signals.source(), found,
        )  # fmt: skip

    def _open_layers(self, tree_path: str) -> None:
        """Whatever is not there costs a line, and the files do its work."""
        config = self.config
        self._signals = Signals(self.core)
        self._parts.callback(self._signals.close)
        self._signals.open(self.root, tree_path.count("/"), use_bpf=config.daemon.wants_events)
        self._hooks = MemcgHooks(self.core, _delay(config))
        self._parts.callback(self._hooks.close)
        self._hooks.open(self.root, config.daemon.wants_hooks)
        self.core.on_grant = self._hooks.granted
        self._cpu = CpuScheduler(self.core, config)
        self._parts.callback(self._cpu.close)
        self._cpu.open(self.root)
        self.core.open_gate, self.core.scheduled = self._cpu.open_gate, self._cpu.figures

    def _watch(self, record: CallRecord) -> None:
        self._signals.watch(record)
        self._hooks.begin(record)
        self._cpu.begin(record)

    def _unwatch(self, record: CallRecord) -> None:
        self._cpu.end(record)
        self._hooks.end(record)
        self._signals.unwatch(record)

    def _layers(self) -> list[str]:
        memory = self._signals.layers() + self._cpu.memory_layers() + self._hooks.layers()
        return memory + self._cpu.layers()

    def _server_stats(self) -> dict[str, int]:
        return self._server.stats()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._stopping.wait()

    async def stop(self) -> None:
        """A clean end: calls keep running with their limits; the next start adopts them."""
        systemd.notify("STOPPING=1")
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._containers.stop()
        await self._execs.stop()
        await self._janitor.stop()
        await self._server.close()
        if self.config.daemon.guardian:
            await self._guardian.stop()
        self._parts.close()
        _log.info("stopped")

    def _remove_root(self) -> None:
        """One that holds sessions stays, for the next start, and so do the ways to others."""
        if in_place.is_root_of_others(self.root):
            return
        with contextlib.suppress(OSError):
            self.root.remove()

    def _reload(self) -> None:
        """SIGHUP: figures that can change under running calls; the rest needs a restart."""
        try:
            config = load_config(self.config_path)
            budget = host_budget_bytes(self.root, config.host.memory_reserve)
        except ConfigError as error:
            _log.error("the configuration was not reloaded: %s", error)
            return
        self.core.state.config = _policy(config)
        self._hooks.tuning = _delay(config)
        self._cpu.tune(config)
        self.core.feed(i.HostBudget(self.core.clock.now_ns(), budget))
        _log.info("configuration reloaded: budget %d MiB", budget >> 20)

    config_path: str | None = None


def run(config: Config, config_path: str | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    setup_logging(config.daemon.log_level)
    _stay_responsive()

    async def main() -> None:
        daemon = Daemon(config)
        daemon.config_path = config_path
        await daemon.start()
        try:
            await daemon.run()
        finally:
            await daemon.stop()

    asyncio.run(main())


def _stay_responsive() -> None:
    """When the host is short of memory the kernel drops code first, and a daemon that waits
    for a busy disk to get its own code back reacts to nothing. While the kernel makes huge
    pages of a process, its page faults wait, for hundreds of milliseconds on a busy host. And a
    thread that writes to cgroup files gives the interpreter back after a tenth of what the
    loop can afford to wait."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    for promise, secure in (
        ("its memory is not locked", lock_memory),
        ("huge pages are made of its memory", refuse_huge_pages),
    ):
        try:
            secure()
        except OSError as error:
            _log.warning(
                "the daemon may answer late under pressure: %s: %s", promise, error.strerror
            )


def _policy(config: Config) -> PolicyConfig:
    return PolicyConfig(
        default_grant_bytes=config.call.memory,
        step_bytes=config.policy.step,
        throttle_max_ns=config.policy.throttle_max_ms * 1_000_000,
        deadlock_after_ns=config.policy.deadlock_after_ms * 1_000_000,
        term_grace_ns=int(config.call.term_grace_s * 1e9),
        default_pids_max=config.call.pids_max,
        default_max_wait_s=config.call.max_wait_s,
        repeat_oom=config.policy.repeat_oom,
    )


def _delay(config: Config) -> DelayTuning:
    return DelayTuning(
        max_ms=config.policy.delay_max_ms,
        burst_pct=config.policy.delay_burst_pct,
        window_pct=config.policy.delay_window_pct,
    )


def _decision_log(config: Config) -> TraceWriter | None:
    if not config.daemon.decision_log:
        return None
    try:
        return TraceWriter(config.daemon.decision_log, host={"role": "daemon"})
    except OSError as error:
        raise ConfigError(
            "daemon.decision_log", config.daemon.decision_log,
            f"name a file in a directory that is there and can be written ({error.strerror})",
        ) from None  # fmt: skip


def _outcome_store(config: Config) -> OutcomeStore:
    path = Path(config.daemon.state_dir) / "outcomes.jsonl"
    try:
        return OutcomeStore(path, config.outcomes.keep, config.outcomes.keep_hours)
    except OSError as error:
        raise ConfigError(
            "daemon.state_dir", config.daemon.state_dir,
            f"name a directory that can be made and written ({error.strerror})",
        ) from None  # fmt: skip


def _run_dir(config: Config) -> Path:
    """Private daemons (another socket) keep their FIFO beside their own socket."""
    default = Config().daemon
    if config.daemon.socket == default.socket:
        run_dir = Path(config.daemon.run_dir)
    else:
        run_dir = Path(admin_socket_path(config.daemon.socket)).parent
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "daemon.run_dir", str(run_dir), f"name a directory that can be made ({error.strerror})"
        ) from None
    return run_dir


def _guardian_is_a_service() -> bool:
    return bool(os.environ.get("AGENTCGROUP_GUARDIAN_SERVICE"))


async def _pat_watchdog(interval_s: float) -> None:
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
