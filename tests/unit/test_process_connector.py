# SPDX-License-Identifier: Apache-2.0
"""Which execs that the process connector tells of begin calls, on processes that never were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agentcgroup.bpf.boundary import Own
from agentcgroup.cgroupfs import proc
from agentcgroup.cgroupfs.proc import ProcessStatus
from agentcgroup.daemon import process_connector
from agentcgroup.daemon.process_connector import ProcessConnector
from agentcgroup.types.events import BoundaryEvent, ExitEvent

AGENT, SHELL, CHILD, OUTSIDE = 10, 11, 12, 13
HOST_MOUNTS, BOX_MOUNTS = 1, 2
EXEC, EXIT = 0x2, 0x80000000


@dataclass
class Process:
    ppid: int
    cgroup: str = "/s/agent"
    argv: tuple[str, ...] = ("node",)
    exe: str = "/usr/bin/node"
    mounts: int = HOST_MOUNTS


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int, Process]:
    (tmp_path / "s" / "agent").mkdir(parents=True)
    processes = {
        AGENT: Process(OUTSIDE), SHELL: Process(AGENT, argv=("bash",), exe="/usr/bin/bash"),
        OUTSIDE: Process(1, cgroup="/elsewhere"),
    }  # fmt: skip

    def status(pid: int) -> ProcessStatus | None:
        found = processes.get(pid)
        return None if found is None else ProcessStatus(pid, found.ppid, 0, False, 100 + pid)

    def cgroup_path(pid: int | str = "self") -> str | None:
        found = processes.get(int(pid))
        return None if found is None else found.cgroup

    monkeypatch.setattr(proc, "status", status)
    monkeypatch.setattr(proc, "cgroup_path", cgroup_path)
    monkeypatch.setattr(proc, "cgroup2_mount_point", lambda: str(tmp_path))
    monkeypatch.setattr(
        proc, "namespace_id",
        lambda pid, _kind: processes[pid].mounts if pid in processes else HOST_MOUNTS,
    )  # fmt: skip
    monkeypatch.setattr(process_connector, "_argv", lambda pid: list(processes[pid].argv))
    monkeypatch.setattr(process_connector, "_link", lambda pid: processes[pid].exe)
    return processes


@pytest.fixture
def connector(world: dict[int, Process], tmp_path: Path) -> ProcessConnector:
    made = ProcessConnector()
    agent_id = (tmp_path / "s" / "agent").stat().st_ino
    made.add_agent(agent_id, ["bash", "sh"], ["agentcgroup-run"], entrants=True)
    made.own(AGENT, 100 + AGENT, Own.AGENT)
    return made


def told(connector: ProcessConnector, pid: int = CHILD) -> BoundaryEvent | None:
    connector._note({"what": EXEC, "process_pid": pid, "process_tgid": pid})
    events = connector.read()
    assert all(isinstance(event, BoundaryEvent) for event in events)
    return events[0] if events else None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("process", "begins"),
    [
        (Process(AGENT, argv=("bash", "-c", "x"), exe="/usr/bin/bash"), True),
        (Process(AGENT, argv=("sh", "-c", "x"), exe="/usr/bin/dash"), True),
        (Process(AGENT, argv=("./run.sh",), exe="/usr/bin/bash"), True),
        (Process(AGENT, argv=("git", "status"), exe="/usr/bin/git"), False),
        (Process(AGENT, argv=("agentcgroup-run", "--", "x"), exe="/bin/agentcgroup-run"), False),
        (Process(AGENT, cgroup="/s/tools/c1", argv=("bash",), exe="/usr/bin/bash"), False),
        (Process(OUTSIDE, argv=("git",), exe="/usr/bin/git", mounts=BOX_MOUNTS), True),
        (Process(OUTSIDE, argv=("runc", "init"), exe="/usr/bin/runc"), False),
    ],
)
def test_who_begins_a_call(
    connector: ProcessConnector, world: dict[int, Process], process: Process, begins: bool
) -> None:
    world[CHILD] = process
    event = told(connector)
    assert (event is not None) == begins
    assert event is None or (event.pid == CHILD and not event.stopped and event.shell_pid is None)
    connector.close()


def test_what_a_shell_in_a_call_starts(
    connector: ProcessConnector, world: dict[int, Process]
) -> None:
    connector.own(SHELL, 100 + SHELL, Own.SHELL)
    world[CHILD] = Process(SHELL, argv=("git",), exe="/usr/bin/git")
    assert told(connector) is None and told(connector, SHELL) is None
    connector.own(SHELL, 100 + SHELL, Own.SHELL_IN_CALL)
    event = told(connector)
    assert event is not None and event.shell_pid == SHELL
    connector.disown(SHELL)
    assert told(connector) is None
    connector.close()


def test_ends_and_threads_and_who_is_gone(connector: ProcessConnector) -> None:
    for code in (7 << 8, 9):
        connector._note(
            {"what": EXIT, "process_pid": 5, "process_tgid": 5, "exit_code": code}
        )  # fmt: skip
    connector._note({"what": EXIT, "process_pid": 6, "process_tgid": 5, "exit_code": 0})
    first, second = connector.read()
    assert isinstance(first, ExitEvent) and (first.exit_code, first.signal) == (7, None)
    assert isinstance(second, ExitEvent) and (second.exit_code, second.signal) == (None, 9)
    assert told(connector, 999) is None and connector.counts()["gone"] == 1
    connector.close()
