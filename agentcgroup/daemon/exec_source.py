# SPDX-License-Identifier: Apache-2.0
"""Who tells of execs: BPF where it can be had, else the process connector, with one line."""

from __future__ import annotations

import os
from typing import Any, Protocol

from ..bpf.boundary import ExecBoundary, Own, Stopped
from ..cgroupfs import pidfd, proc
from ..cgroupfs.api import CgroupLike
from ..errors import NotSupportedError
from ..log import get_logger
from ..types.events import BoundaryEvent
from .config import BoundaryConfig, BoundarySource
from .process_connector import RACE, ProcessConnector
from .records import ProcessRef
from .target import Target

__all__ = [
    "STOPPED_XATTR",
    "Source",
    "close_source",
    "connector_finding",
    "event_of",
    "open_source",
    "source_name",
]

STOPPED_XATTR = "trusted.agentcgroup.stopped"
"""At the tree's root: the directory of pinned maps with who stands still, for the guardian."""

_log = get_logger(__name__)


class Source(Protocol):
    """What both sources of execs offer."""

    def fileno(self) -> int: ...
    def read(self) -> list[Any]: ...
    def renew(self, until_ns: int) -> None: ...
    def add_agent(
        self, cgroup_id: int, programs: list[str], ignored: list[str], *, entrants: bool
    ) -> None: ...
    def remove_agent(self, cgroup_id: int) -> None: ...
    def own(self, pid: int, start_ticks: int, kind: Own) -> None: ...
    def disown(self, pid: int) -> None: ...
    def extend(self, stopped: Stopped, due_ns: int) -> None: ...
    def forget(self, pid: int) -> None: ...
    def stopped(self) -> list[Stopped]: ...
    def stopped_process(self, pid: int) -> Stopped | None: ...
    def counts(self) -> dict[str, int]: ...
    def programs(self) -> list[str]: ...
    def close(self) -> None: ...


def open_source(root: CgroupLike, config: BoundaryConfig, missing: dict[str, str]) -> Source:
    """`missing` learns why it is the second best. Raises NotSupportedError when there is none."""
    reason = ""
    if config.source is not BoundarySource.CONNECTOR:
        try:
            source = ExecBoundary.open(f"boundary-{root.id}", int(config.patience_s * 1e9))
        except NotSupportedError as error:
            if config.source is BoundarySource.BPF:
                raise
            reason = missing["exec_bpf"] = str(error)
            _log.warning(
                "BPF can't stop commands, the process connector is used: %s: %s", RACE, reason
            )
        else:
            root.set_xattr(STOPPED_XATTR, str(source.pin_directory()).encode())
            return source
    try:
        return ProcessConnector.open()
    except NotSupportedError as error:
        why = f"{reason}; " if reason else ""
        raise NotSupportedError(f"{why}process connector: {error}") from None


def close_source(source: Source, root: CgroupLike) -> None:
    source.close()
    if isinstance(source, ExecBoundary) and not source.pin_directory().exists():
        root.remove_xattr(STOPPED_XATTR)


def connector_finding() -> tuple[str, str]:
    """For `doctor`: is the second best there, and what it is worth."""
    try:
        ProcessConnector.open().close()
    except NotSupportedError as error:
        return "no", str(error)
    return "yes", f"where BPF can't stop commands; {RACE}"


def source_name(source: Source) -> str:
    return "bpf" if isinstance(source, ExecBoundary) else "process connector"


def event_of(stopped: Stopped) -> BoundaryEvent:
    """What was not heard of, from what is noted of it."""
    return BoundaryEvent(
        t_ns=stopped.stopped_ns, pid=stopped.pid, ppid=0, start_ticks=stopped.start_ticks,
        cgroup_id=stopped.cgroup_id, command=proc.cmdline(stopped.pid) or "unknown",
        filename="", stopped=True,
    )  # fmt: skip


def target_of(event: BoundaryEvent) -> Target | None:
    """None if the process is gone, or its number somebody else's."""
    try:
        fd = pidfd.open_pidfd(event.pid)
    except OSError:
        return None
    ref = ProcessRef.of_pidfd(fd, event.pid)
    if ref is None or proc.start_time_ticks(event.pid) != event.start_ticks:
        os.close(fd)
        return None
    return Target(fd, ref)
