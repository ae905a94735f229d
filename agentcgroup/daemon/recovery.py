# SPDX-License-Identifier: Apache-2.0
"""After a restart: read the tree back, go on with what runs, end what can't.

For every leaf with a record: outcome stored -> only rmdir; its owner lives -> it runs on
and waits for tool.resume, or for the repeated tool.begin that places its command; owner
dead -> ended here, `lost` since nobody saw its status, unless the leaf tells a reason.
A leaf without a record was never placed into and is removed. Grants and frozen states
are taken from the files as they are, so what a guardian raised meanwhile is adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError, InvalidValueError
from ..log import get_logger
from ..types import inputs as i
from ..types.intents import Intent
from ..types.limits import Limits
from ..types.outcomes import Reason
from ..types.sessions import Mode, SessionSpec
from . import in_place, layout
from .calls import Calls
from .core import Core
from .ending import Ender
from .outcomes import OutcomeStore
from .records import (
    CALL_XATTR,
    SESSION_XATTR,
    CallRecord,
    ProcessRef,
    SessionRecord,
    load_because,
    load_xattr,
)
from .session_watch import SessionWatch
from .sessions import Sessions
from .takeover import epoch_of, relieved_ns

__all__ = ["Recovery"]

_log = get_logger(__name__)


class Recovery:
    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        sessions: Sessions,
        calls: Calls,
        ender: Ender,
        store: OutcomeStore,
        watch: SessionWatch,
        open_cgroup: Callable[[str], CgroupLike],
    ) -> None:
        self._core = core
        self._root = root
        self._sessions = sessions
        self._calls = calls
        self._ender = ender
        self._store = store
        self._watch = watch
        self._open_cgroup = open_cgroup
        self._orphans: list[CallRecord] = []

    async def run(self) -> dict[str, int]:
        """Counts of what was found, for one log line."""
        epoch = epoch_of(self._root)
        counts = {"sessions": 0, "running": 0, "ended": 0, "removed": 0, "epoch": epoch}
        for name in self._root.children():
            with contextlib.suppress(CgroupGoneError):
                self._adopt_session(self._root.child(name), counts)
        for name, directory in in_place.links(self._root).items():
            self._follow(name, directory, counts)
        self._core.feed(i.Tick(self._core.clock.now_ns()))
        # Together: one that takes seconds to die must not keep the others' shims waiting.
        await asyncio.gather(*(self._ender.end(o, None, None, lost=True) for o in self._orphans))
        counts["ended"] += len(self._orphans)
        return counts

    def _adopt_session(self, cgroup: CgroupLike, counts: dict[str, int]) -> None:
        saved = load_xattr(cgroup, SESSION_XATTR)
        if saved is None:
            self._remove_unfinished(cgroup, counts)
            return
        try:
            record = self._session_record(cgroup, saved)
        except CgroupGoneError:
            # It was being removed: agent/ or tools/ is gone already.
            self._remove_unfinished(cgroup, counts)
            return
        except (InvalidValueError, KeyError, ValueError) as error:
            _log.warning("session %s can't be adopted: %s", cgroup.name, error)
            return
        self._sessions.register(record)
        self._watch.begin(record)
        counts["sessions"] += 1
        for name in record.tools.children():
            if name == layout.BACKGROUND:
                record.background = record.tools.child(name)
                continue
            with contextlib.suppress(CgroupGoneError):
                self._adopt_leaf(record, record.tools.child(name), counts)

    def _follow(self, name: str, directory: str, counts: dict[str, int]) -> None:
        """To a cgroup that was adopted in place: it may be gone, or half divided."""
        try:
            cgroup = self._open_cgroup(directory)
        except CgroupGoneError:
            in_place.forget_link(self._root, name)
            return
        if load_xattr(cgroup, SESSION_XATTR) is not None:
            with contextlib.suppress(CgroupGoneError):
                self._adopt_session(cgroup, counts)
            return
        in_place.forget_link(self._root, name)
        with cgroup:
            if cgroup.children() and set(cgroup.children()) <= {layout.AGENT, layout.TOOLS}:
                in_place.merge(cgroup, {})
                counts["removed"] += 1

    def _session_record(self, cgroup: CgroupLike, saved: dict[str, Any]) -> SessionRecord:
        spec = SessionSpec.model_validate(saved["spec"])
        return SessionRecord(
            name=saved["name"],
            spec=spec,
            mode=Mode(saved["mode"]),
            cgroup=cgroup,
            agent=cgroup.child(layout.AGENT),
            tools=cgroup.child(layout.TOOLS),
            created_epoch_s=float(saved["created_epoch_s"]),
            containment=str(saved["containment"]),
            containment_reason=str(saved["containment_reason"]),
            bound_agent=ProcessRef.from_list(saved["agent"]),
            origin=saved["origin"],
            pids_max=int(saved["pids_max"]),
            reserve_bytes=int(saved["reserve_bytes"]),
            in_place=saved["in_place"],
            was=saved["was"],
            container=saved["container"],
        )

    def _adopt_leaf(self, session: SessionRecord, leaf: CgroupLike, counts: dict[str, int]) -> None:
        saved = load_xattr(leaf, CALL_XATTR)
        if saved is None or self._store.get(leaf.name) is not None:
            with contextlib.suppress(OSError):
                leaf.kill()
                leaf.remove_tree()
            leaf.close()
            counts["removed"] += 1
            return
        record = self._call_record(session, leaf, saved)
        session.calls[record.name] = self._core.calls[record.name] = record
        session.keys[record.key] = record.name
        self._core.by_cgroup[leaf.id] = record
        current = leaf.read_int(files.MEMORY_CURRENT) or 0
        frozen = (leaf.try_read(files.CGROUP_FREEZE) or "0") == "1"
        now = self._core.clock.now_ns()
        if not frozen:
            record.note_thawed(max(record.frozen_since_ns or 0, relieved_ns(self._root, now)))
        elif record.frozen_since_ns is None:
            record.frozen_since_ns = now
        self._core.feed(
            i.CallRestored(
                now, session.name, record.name, record.intent,
                record.placed_ns or record.begun_ns,
                record.limits.memory_high_bytes, current, frozen,
            )
        )  # fmt: skip
        owner_fd = record.owner.open()
        if owner_fd is None:
            self._orphans.append(record)
            return
        record.owner_pidfd = owner_fd
        self._calls.watch(record)
        self._calls.shell_begins(record)
        counts["running"] += 1

    def _call_record(
        self, session: SessionRecord, leaf: CgroupLike, saved: dict[str, Any]
    ) -> CallRecord:
        owner = ProcessRef.from_list(saved["owner"])
        return CallRecord(
            name=leaf.name,
            session=session.name,
            key=saved["key"],
            intent=Intent.model_validate(saved["intent"]),
            owner=owner or ProcessRef(0, 0),
            child=ProcessRef.from_list(saved["child"]),
            shell=ProcessRef.from_list(saved["shell"]),
            begun_ns=int(saved["begun_ns"]),
            began_epoch_s=float(saved["began_epoch_s"]),
            leaf=leaf,
            limits=_limits_of(leaf),
            placed_ns=saved["placed_ns"],
            waited_ms=float(saved["waited_ms"]),
            oom_before=tuple(saved["oom_before"]),
            killed=Reason(saved["killed"]) if saved["killed"] else None,
            because=load_because(saved["because"]),
            frozen_ns=int(saved["frozen_ns"]),
            frozen_since_ns=saved["frozen_since_ns"],
        )

    def _remove_unfinished(self, cgroup: CgroupLike, counts: dict[str, int]) -> None:
        """A crash during session.create or session.end leaves a part of a session."""
        if not cgroup.populated():
            with contextlib.suppress(OSError):
                cgroup.remove_tree()
                counts["removed"] += 1
        else:
            _log.warning("%s holds processes but no record of ours: left alone", cgroup.path)
        cgroup.close()


def _limits_of(leaf: CgroupLike) -> Limits:
    """What the files say now: they are the truth, whoever wrote them."""

    def integer(file: str) -> int | None:
        text = leaf.try_read(file)
        return int(text) if text and text.isdigit() else None

    quota = (leaf.try_read(files.CPU_MAX) or "max").split()
    cores = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdigit() else None
    return Limits(
        memory_high_bytes=integer(files.MEMORY_HIGH),
        memory_max_bytes=integer(files.MEMORY_MAX),
        swap_max_bytes=integer(files.MEMORY_SWAP_MAX) or 0,
        pids_max=integer(files.PIDS_MAX) or 512,
        cpu_weight=integer(files.CPU_WEIGHT) or 100,
        cpu_max_cores=cores,
    )
