# SPDX-License-Identifier: Apache-2.0
"""A core on the in-memory tree, with sessions and calls, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.records import CallRecord, ProcessRef, SessionRecord
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.types import inputs as i
from agentcgroup.types.intents import Intent, Priority
from agentcgroup.types.sessions import Mode, SessionSpec
from agentcgroup.units import MIB

Check = Callable[[Core, FakeCgroup], Awaitable[None]]


def on_a_core(check: Check) -> None:
    async def run() -> None:
        core = Core(4096 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        try:
            await check(core, FakeCgroup.delegated(FakeKernel()))
        finally:
            core.close()

    asyncio.run(run())


def a_session(core: Core, root: FakeCgroup, name: str, mode: Mode = Mode.ENFORCE) -> SessionRecord:
    cgroup = root.create(name)
    for parent in (root, cgroup):
        parent.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    spec = SessionSpec(name=name, memory=1024 * MIB)
    record = SessionRecord(
        name, spec, mode, cgroup, cgroup.create("agent"), cgroup.create("tools"), 1.0
    )
    record.tools.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu")
    core.sessions[name] = record
    now = core.clock.now_ns()
    core.feed(i.SessionBegin(now, name, Priority.NORMAL, spec.memory, 64 * MIB, mode))
    return record


def a_call(core: Core, session: SessionRecord, name: str, *, placed: bool = True) -> CallRecord:
    record = CallRecord(
        name, session.name, key=name, intent=Intent(memory=32 * MIB, label="a label"),
        owner=ProcessRef(1, 1), child=None, begun_ns=core.clock.now_ns() - 2_000_000_000,
        began_epoch_s=1.0,
    )  # fmt: skip
    session.calls[name] = core.calls[name] = record
    if placed:
        core.feed(i.CallBegin(core.clock.now_ns(), session.name, name, record.intent))
        record.leaf = session.tools.create(name)
        record.waited_ms = 500.0
    return record
