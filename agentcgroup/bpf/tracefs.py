# SPDX-License-Identifier: Apache-2.0
"""perf's tracepoints, which libbpf finds by a number in tracefs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["has_event"]

_MOUNTS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def has_event(name: str) -> bool:
    """Is `sched/sched_process_exec` there, for us? False where tracefs is not mounted."""
    return any((mount / "events" / name / "id").exists() for mount in _MOUNTS)
