# SPDX-License-Identifier: Apache-2.0
"""Snapshots for tests of `top`: three sessions, five calls, one of them hostile."""

from __future__ import annotations

from typing import Any

from agentcgroup.cli.top_rows import Snapshot
from agentcgroup.protocol.messages import CallInfo, SessionInfo
from agentcgroup.units import GIB, MIB

HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07",
    "[red]markup[/red] [link=http://x]y[/link] :smile:",
    "x" * 300,
    "漢字" * 40,
    "line\nbreak\r\ttab\x00\x9b\x7f\u202eflip\u200b",
    "e\u0301\u0301\u0301 👩‍👩‍👧 \ufe0f",
    "[",
    "[/]",
    "\ud800",
)


def session(name: str, **fields: Any) -> SessionInfo:
    known = {
        "name": name, "kind": "inside", "priority": "normal", "mode": "enforce",
        "containment": "enforced", "containment_reason": "", "cgroup": "/x",
        "created_epoch_s": 8000.0,
    }  # fmt: skip
    return SessionInfo.model_validate({**known, **fields})


def call(name: str, of: str, state: str = "running", **fields: Any) -> CallInfo:
    known = {"call": name, "session": of, "state": state, "age_s": 60.0, "waited_ms": 0.0}
    return CallInfo.model_validate({**known, **fields})


def status(uptime_s: float = 100.0) -> dict[str, Any]:
    return {
        "version": "0.1.0", "mode": "enforce", "uptime_s": uptime_s,
        "host": {"budget_bytes": 8 * GIB, "free_bytes": 2 * GIB},
        "layers": {"memory": ["files", "events"], "cpu": ["files"]},
    }  # fmt: skip


def snapshot(after_s: float = 0.0) -> Snapshot:
    """alice works, bob is held back, carol is idle; counters rise with `after_s`."""
    t = after_s
    sessions = (
        session("alice", priority="high", memory_bytes=4 * GIB, memory_current_bytes=2 * GIB,
                granted_bytes=3 * GIB, cpu_s=100 + 1.5 * t, throttled_ms=10.0, calls=["c1", "c2"]),
        session("bob", priority="low", memory_bytes=2 * GIB, memory_current_bytes=GIB,
                granted_bytes=GIB, cpu_s=50.0, throttled_ms=500 * t, calls=["c3", "c4"], queued=1,
                labels={"team": "x"}),
        session("carol", mode="observe", memory_current_bytes=30 * MIB),
    )  # fmt: skip
    calls = (
        call("c1", "alice", label="pytest -q", layers=["files", "events"], grant_bytes=GIB,
             cap_bytes=4 * GIB, memory_current_bytes=900 * MIB, age_s=60 + t, cpu_s=60 + t,
             throttled_ms=5.0, frozen_ms=0.0),
        call("c2", "alice", command="cargo build", layers=["files"], grant_bytes=2 * GIB,
             cap_bytes=4 * GIB, memory_current_bytes=GIB, age_s=5 + t, cpu_s=2 + t / 2,
             throttled_ms=0.0, frozen_ms=0.0),
        call("c3", "bob", "frozen", command="train.py", grant_bytes=GIB, cap_bytes=2 * GIB,
             memory_current_bytes=GIB, age_s=60 + t, cpu_s=1.0, waited_ms=3000.0,
             throttled_ms=400 * t, frozen_ms=1000 * t, because="others hold the memory"),
        call("c4", "bob", command=HOSTILE[0], grant_bytes=MIB, memory_current_bytes=1024,
             age_s=9 + t, cpu_s=0.0, throttled_ms=0.0, frozen_ms=0.0),
        call("c5", "bob", "queued", command="npm ci", age_s=4 + t, waited_ms=4000 + 1000 * t,
             because="100 MiB were free and it expects 512 MiB"),
    )  # fmt: skip
    return Snapshot(status(100.0 + t), sessions, calls, 9000.0 + t)
