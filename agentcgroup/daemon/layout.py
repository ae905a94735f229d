# SPDX-License-Identifier: Apache-2.0
"""Directories and limits of sessions in the tree (DESIGN: cgroup layout). Bytes.

<session>/ budget, agent/ room that tools can't take, tools/ everything tool calls may
have. tools/ has a memory.high a margin below its max, and policy stays two margins
below, so a single call meets its own cap first and the kernel names the right level.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..enforce.files import cpu_max_text
from ..errors import CgroupGoneError, NotSupportedError
from ..log import get_logger, warn_once
from ..types.intents import Priority
from ..types.sessions import SessionSpec
from ..units import MIB

__all__ = [
    "AGENT",
    "BACKGROUND",
    "CONTROLLERS",
    "SESSION_CPU_WEIGHT",
    "TOOLS",
    "bound_descendants",
    "enable_controllers",
    "lift_room_limits",
    "lift_session_limits",
    "make_session",
    "margin_bytes",
    "policy_budget_bytes",
    "write_room_limits",
    "write_session_limits",
]

AGENT, TOOLS, BACKGROUND = "agent", "tools", "background"
CONTROLLERS = ("memory", "cpu", "pids", "io")
_AGENT_CPU_WEIGHT = 1000
SESSION_CPU_WEIGHT = {Priority.HIGH: 400, Priority.NORMAL: 100, Priority.LOW: 25}
_LEAVES_MAX = 4096
_CAPS = (files.MEMORY_HIGH, files.MEMORY_MAX, files.PIDS_MAX)
_log = get_logger(__name__)


def margin_bytes(budget_bytes: int) -> int:
    """Distance from one line to the next: 1/64 of the budget within 1M..16M."""
    return max(MIB, min(16 * MIB, budget_bytes // 64))


def policy_budget_bytes(memory_bytes: int | None) -> int | None:
    """What policy may hand out of a memory.max of `memory_bytes`."""
    return None if memory_bytes is None else memory_bytes - 2 * margin_bytes(memory_bytes)


def enable_controllers(cgroup: CgroupLike, wanted: Iterable[str] = CONTROLLERS) -> set[str]:
    """Turn controllers on for the children; returns those that could not be."""
    offered = (cgroup.try_read(files.CGROUP_CONTROLLERS) or "").split()
    on = (cgroup.try_read(files.CGROUP_SUBTREE_CONTROL) or "").split()
    missing = set()
    for name in wanted:
        if name in on:
            continue
        if name not in offered:
            missing.add(name)
            continue
        cgroup.write(files.CGROUP_SUBTREE_CONTROL, f"+{name}")
    return missing


def make_session(root: CgroupLike, name: str) -> tuple[CgroupLike, CgroupLike, CgroupLike]:
    """session/, agent/ and tools/; nothing is left behind when a step fails.

    Raises FileExistsError for a name in use.
    """
    session = root.create(name)
    try:
        enable_controllers(session)
        agent = session.create(AGENT)
        tools = session.create(TOOLS)
        enable_controllers(tools)
    except BaseException:
        with contextlib.suppress(OSError, CgroupGoneError):
            session.remove_tree()
        raise
    return session, agent, tools


def write_session_limits(
    session: CgroupLike,
    agent: CgroupLike,
    tools: CgroupLike,
    spec: SessionSpec,
    *,
    reserve_bytes: int,
    pids_max: int,
    pids_reserve: int,
) -> None:
    memory = spec.memory
    _write(session, files.MEMORY_MAX, files.MAX if memory is None else str(memory))
    _write(session, files.PIDS_MAX, str(pids_max))
    _write(session, files.CPU_WEIGHT, str(SESSION_CPU_WEIGHT[spec.priority]))
    _write(session, files.CPU_MAX, cpu_max_text(spec.cpu))
    bound_descendants(session)
    write_room_limits(
        agent, tools, memory,
        reserve_bytes=reserve_bytes, pids_max=pids_max, pids_reserve=pids_reserve,
    )  # fmt: skip


def write_room_limits(
    agent: CgroupLike,
    tools: CgroupLike,
    memory_bytes: int | None,
    *,
    reserve_bytes: int,
    pids_max: int,
    pids_reserve: int,
) -> None:
    """What holds below a session's own directory."""
    _write(agent, files.CPU_WEIGHT, str(_AGENT_CPU_WEIGHT))
    _write(tools, files.PIDS_MAX, str(max(1, pids_max - pids_reserve)))
    if memory_bytes is None:
        _write(tools, files.MEMORY_MAX, files.MAX)
        _write(tools, files.MEMORY_HIGH, files.MAX)
    else:
        tools_max = memory_bytes - reserve_bytes
        _write(tools, files.MEMORY_MAX, str(tools_max))
        _write(tools, files.MEMORY_HIGH, str(tools_max - margin_bytes(memory_bytes)))


def bound_descendants(cgroup: CgroupLike) -> None:
    _write(cgroup, files.CGROUP_MAX_DESCENDANTS, str(_LEAVES_MAX))


def lift_session_limits(session: CgroupLike, agent: CgroupLike, tools: CgroupLike) -> None:
    """Modes observe and off: nothing of ours holds anybody."""
    _write(session, files.CPU_WEIGHT, "100")
    _write(session, files.CPU_MAX, cpu_max_text(None))
    for file in _CAPS:
        _write(session, file, files.MAX)
    lift_room_limits(agent, tools)


def lift_room_limits(agent: CgroupLike, tools: CgroupLike) -> None:
    for cgroup in (agent, tools):
        _write(cgroup, files.CPU_WEIGHT, "100")
    for file in _CAPS:
        _write(tools, file, files.MAX)


def _write(cgroup: CgroupLike, file: str, text: str) -> None:
    try:
        cgroup.write(file, text)
    except NotSupportedError:
        warn_once(_log, f"{file} is missing here: this limit has no effect on this host")
