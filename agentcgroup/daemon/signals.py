# SPDX-License-Identifier: Apache-2.0
"""Where memory events come from: BPF programs, else cgroup notifications and PSI.

Both end in the same inputs for policy. Each missing BPF capability costs one line, and
is replaced by the file that tells the same, later: memory.events by inotify, PSI
triggers on tools/ for pressure that crossed no line of a leaf.
"""

from __future__ import annotations

import asyncio

from ..bpf.kernel_events import KernelEvents
from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..cgroupfs.watch import PsiTrigger, Watcher
from ..errors import CgroupGoneError, InvalidValueError, NotSupportedError
from ..log import get_logger
from ..policy.feedback import plain_command
from ..policy.pacing import FASTEST_LOOK_NS
from ..types import inputs as i
from ..types.events import ExitEvent, MemoryEvent, MemoryKind, OomEvent
from ..types.outcomes import BiggestProcess
from .core import Core
from .ending import note_biggest
from .records import CallRecord, SessionRecord

__all__ = ["Signals"]

_log = get_logger(__name__)
_LINE_KINDS = frozenset({MemoryKind.HIGH, MemoryKind.MAX, MemoryKind.RECLAIM})
_WANTED = frozenset({"exec", "exit", "oom", "memory"})
# Exec is heard for the victim's command line only; exits can wait until somebody asks.
_MUTED = frozenset({"exec"})
_QUIET = frozenset({"exit"})
_GAP_NS = 2_000_000
_PSI_STALL_US = 50_000
_PSI_WINDOW_US = 500_000


class Signals:
    """`open` one; `watch` every leaf, `watch_session` every session."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._bpf: KernelEvents | None = None
        self._watcher: Watcher | None = None
        self._triggers: dict[str, PsiTrigger] = {}
        self._places: dict[str, int] = {}
        self.missing: dict[str, str] = {}
        self._told_dropped = 0

    def open(self, root: CgroupLike, root_level: int, *, use_bpf: bool) -> None:
        if use_bpf:
            try:
                self._bpf = KernelEvents.open(
                    root.id, root_level, gap_ns=_GAP_NS, only=_WANTED, muted=_MUTED, quiet=_QUIET
                )
            except NotSupportedError as error:
                self.missing["bpf"] = str(error)
        else:
            self.missing["bpf"] = "switched off by configuration"
        if self._bpf is not None:
            self.missing.update(self._bpf.missing())
            self._loop.add_reader(self._bpf.fileno(), self._on_bpf)
        if not self.has_bpf("memory"):
            self._watcher = Watcher()
            self._loop.add_reader(self._watcher.fileno(), self._on_files)
        for name, why in self.missing.items():
            _log.warning("BPF %s is off, cgroup files are used instead: %s", name, why)

    def has_bpf(self, capability: str) -> bool:
        return self._bpf is not None and capability in self._bpf.capabilities()

    def layers(self) -> list[str]:
        return ["files", "events"]

    def source(self) -> str:
        return "bpf" if self.has_bpf("memory") else "cgroup notifications and PSI"

    def programs(self) -> list[str]:
        return self._bpf.programs() if self._bpf else []

    def dropped(self) -> dict[str, int]:
        return self._bpf.dropped() if self._bpf else {}

    def watch(self, record: CallRecord) -> None:
        if self._watcher is not None and record.leaf is not None:
            try:
                self._watcher.add(record.leaf, files.MEMORY_EVENTS)
            except (CgroupGoneError, NotSupportedError) as error:
                _log.debug("cannot watch %s: %s", record.name, error)

    def unwatch(self, record: CallRecord) -> None:
        if self._watcher is not None and record.leaf is not None:
            self._watcher.remove(record.leaf.id)

    def watch_session(self, session: SessionRecord) -> None:
        """Pressure in tools/ that no leaf's line explains (page cache of ended calls)."""
        if self._bpf is not None and session.in_place is not None:
            self._watch_place(self._bpf, session, session.in_place)
        if self._watcher is None:
            return
        try:
            trigger = PsiTrigger(session.tools, "some", _PSI_STALL_US, _PSI_WINDOW_US)
        except OSError as error:
            self.missing.setdefault("psi", f"no PSI triggers: {error.strerror}")
            return
        self._triggers[session.name] = trigger
        self._loop.add_reader(trigger.fileno(), self._on_psi, session.name)

    def _watch_place(self, bpf: KernelEvents, session: SessionRecord, path: str) -> None:
        """It is not below the tree, which is watched as a whole."""
        try:
            bpf.add_root(session.cgroup.id, path.count("/"))
        except (OSError, InvalidValueError) as error:
            _log.warning("memory events of session %s are not heard: %s", session.name, error)
            return
        self._places[session.name] = session.cgroup.id

    def unwatch_session(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is not None and self._bpf is not None:
            self._bpf.remove_root(place)
        trigger = self._triggers.pop(name, None)
        if trigger is not None:
            self._loop.remove_reader(trigger.fileno())
            trigger.close()

    def drain(self) -> None:
        """Read what came without a wake-up (the exits), and count what was lost."""
        if self._bpf is None:
            return
        self._on_bpf()
        dropped = sum(self._bpf.dropped().values())
        if dropped > self._told_dropped:
            body = {"count": dropped - self._told_dropped}
            self._core.decisions.record(self._core.clock.now_ns(), "dropped", None, None, body)
            self._told_dropped = dropped

    def close(self) -> None:
        for name in list(self._triggers):
            self.unwatch_session(name)
        if self._bpf is not None:
            self._loop.remove_reader(self._bpf.fileno())
            self._bpf.close()
        if self._watcher is not None:
            self._loop.remove_reader(self._watcher.fileno())
            self._watcher.close()

    # --- BPF

    def _on_bpf(self) -> None:
        assert self._bpf is not None
        for event in self._bpf.read():
            if isinstance(event, MemoryEvent):
                self._on_memory(event)
            elif isinstance(event, OomEvent):
                self._on_oom(event)
            elif isinstance(event, ExitEvent):
                self._on_exit(event)

    def _on_memory(self, event: MemoryEvent) -> None:
        record = self._core.by_cgroup.get(event.cgroup_id)
        if record is None:
            return
        if event.kind in _LINE_KINDS:
            self._at_line(record, event.t_ns, event.usage_bytes)

    def _on_oom(self, event: OomEvent) -> None:
        record = self._core.by_cgroup.get(event.victim_cgroup_id)
        if record is None:
            return
        known = record.biggest.rss_bytes if record.biggest and record.biggest.rss_bytes else 0
        if (event.victim_rss_bytes or 0) >= known:
            record.biggest = BiggestProcess(
                pid=event.victim_pid,
                command=plain_command(event.victim_command) or "unknown",
                rss_bytes=event.victim_rss_bytes,
            )
        body = {"event": "oom", "victim_pid": event.victim_pid}
        self._core.decisions.record(event.t_ns, "sample", record.session, record.name, body)

    def _on_exit(self, event: ExitEvent) -> None:
        record = self._core.by_cgroup.get(event.cgroup_id)
        if record is not None and record.child is not None and record.child.pid == event.pid:
            record.child_exit = (event.exit_code, event.signal)

    # --- files

    def _on_files(self) -> None:
        assert self._watcher is not None
        now = self._core.clock.now_ns()
        for change in self._watcher.read():
            record = self._core.by_cgroup.get(change.cgroup_id)
            if record is None or change.gone:
                continue
            self._at_line(record, now, None)

    def _on_psi(self, name: str) -> None:
        trigger, session = self._triggers.get(name), self._core.sessions.get(name)
        if trigger is None:
            return
        if not trigger.acknowledge() or session is None:
            self.unwatch_session(name)
            return
        now = self._core.clock.now_ns()
        for record in list(session.calls.values()):
            if record.leaf is not None:
                record.next_sample_ns = now
        self._core.schedule()

    def _at_line(self, record: CallRecord, t_ns: int, usage_bytes: int | None) -> None:
        record.high_since_raise = True
        record.at_line_ns = t_ns
        if usage_bytes is None and record.leaf is not None:
            text = record.leaf.try_read(files.MEMORY_CURRENT)
            usage_bytes = int(text) if text else None
        if usage_bytes is not None:
            record.last_current_bytes, record.looked_ns = usage_bytes, t_ns
        decided = self._core.state.calls.get(record.name)
        if decided is not None and not decided.waits:
            record.sample_interval_ns = FASTEST_LOOK_NS
            record.next_sample_ns = min(record.next_sample_ns, t_ns + FASTEST_LOOK_NS)
        if not self.has_bpf("oom"):
            note_biggest(record, t_ns)
        self._core.feed(i.MemoryHigh(self._core.clock.now_ns(), record.name, usage_bytes))
        if record.high_since_raise and usage_bytes is not None:
            self._core.heard_late(record, usage_bytes)
