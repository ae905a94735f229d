# SPDX-License-Identifier: Apache-2.0
"""May a session have this budget? Bytes; InvalidValueError says what it may have."""

from __future__ import annotations

from ..cgroupfs import files
from ..cgroupfs.api import CgroupLike
from ..errors import InvalidValueError
from ..types.sessions import SessionKind, SessionSpec
from ..units import MIB, format_bytes
from .records import SessionRecord

__all__ = ["check_not_below", "checked_reserve_bytes"]

_LEAST_MEMORY_BYTES = 16 * MIB


def checked_reserve_bytes(spec: SessionSpec, host_bytes: int, default_bytes: int) -> int:
    """What agent/ keeps of a budget that the host can give."""
    asked = spec.memory_reserve
    if spec.memory is None:
        return asked if asked is not None else 0
    if spec.memory > host_bytes:
        raise InvalidValueError(
            "memory", spec.memory,
            f"the host's budget is {host_bytes} bytes ({format_bytes(host_bytes)});"
            " ask for at most that",
        )  # fmt: skip
    if spec.memory < _LEAST_MEMORY_BYTES:
        raise InvalidValueError("memory", spec.memory, "a session needs at least 16M")
    if asked is None:
        inside = spec.kind is SessionKind.INSIDE
        return min(default_bytes, spec.memory // 4) if inside else 0
    if asked > spec.memory // 2:
        raise InvalidValueError(
            "memory_reserve", asked, f"keep at most half of memory ({spec.memory // 2} bytes)"
        )
    return asked


def check_not_below(record: SessionRecord, memory_bytes: int, reserve_bytes: int) -> None:
    """A memory.max below what is held would be a kill."""
    tools_bytes = memory_bytes - reserve_bytes
    for cgroup, budget in ((record.cgroup, memory_bytes), (record.tools, tools_bytes)):
        held = _current_bytes(cgroup)
        if budget < held:
            least = format_bytes(held + memory_bytes - budget)
            raise InvalidValueError(
                "memory", memory_bytes,
                f"the session holds memory for which it needs {least}: end tool calls"
                " first, or ask for more than that",
            )  # fmt: skip


def _current_bytes(cgroup: CgroupLike) -> int:
    text = cgroup.try_read(files.MEMORY_CURRENT)
    return int(text) if text else 0
