# SPDX-License-Identifier: Apache-2.0
"""Contained or advised: what the kernel says of a process decides, and answers in its terms."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from agentcgroup.daemon.containment import (
    AgentFacts,
    cgroupfs_is_writable,
    engines_mounted,
    judge,
    look_at,
)
from agentcgroup.daemon.translation import Numbers
from agentcgroup.types.sessions import Containment

IN_A_CONTAINER = AgentFacts(
    uid=0, capabilities=0xA80425FB, host_user=True, own_mounts=True, cgroupfs_writable=False,
    engines=(),
)  # fmt: skip
MOUNTS = """
514 513 0:52 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
517 514 0:28 {root} /sys/fs/cgroup {options} - cgroup2 cgroup rw,nsdelegate
519 512 0:24 {source} {target} rw,nosuid,nodev - tmpfs tmpfs rw,size=1k
""".strip()


def mounts(options: str = "ro,nosuid", source: str = "/agent", target: str = "/run/a") -> list[str]:
    text = MOUNTS.format(root="/", options=options, source=source, target=target)
    return text.splitlines()


@pytest.mark.parametrize(
    ("change", "found", "words"),
    [
        ({}, "enforced", "uid 0 without write access"),
        ({"own_mounts": False}, "advisory", "root on the host"),
        ({"capabilities": 1 << 21}, "advisory", "CAP_SYS_ADMIN"),
        ({"capabilities": 1 << 21, "host_user": False}, "enforced", ""),
        ({"engines": ("/run/docker.sock",)}, "advisory", "/run/docker.sock"),
        ({"cgroupfs_writable": True}, "advisory", "mounted writable"),
        ({"cgroupfs_writable": True, "uid": 1000, "capabilities": 0}, "enforced", "uid 1000"),
        ({"cgroupfs_writable": True, "uid": 1000, "capabilities": 2}, "advisory", "writable"),
        ({"own_mounts": False, "uid": 1000, "capabilities": 0}, "enforced", ""),
    ],
)  # fmt: skip
def test_judgement(change: dict[str, object], found: str, words: str) -> None:
    containment, reason = judge(replace(IN_A_CONTAINER, **change))  # type: ignore[arg-type]
    assert containment == found and words in reason


def test_nobody_is_not_known_to_be_contained() -> None:
    assert judge(None)[0] is Containment.ADVISORY


def test_mounts() -> None:
    assert not cgroupfs_is_writable(mounts("ro,nosuid"))
    assert cgroupfs_is_writable(mounts("rw,nosuid"))
    assert engines_mounted(mounts()) == ()
    assert engines_mounted(mounts(source="/docker.sock", target="/x")) == ("/x",)
    assert engines_mounted(mounts(target="/var/run/docker.sock")) == ("/var/run/docker.sock",)
    assert engines_mounted(["", "nonsense - cgroup2"]) == ()


def test_a_look_at_a_process_that_lives() -> None:
    facts = look_at(os.getpid(), os.getuid())
    assert (facts.uid, facts.own_mounts, facts.host_user) == (os.getuid(), False, True)


def test_pids_are_told_in_the_callers_namespace() -> None:
    ids = {100: [100, 7], 101: [101, 8], 102: [102, 9, 1], 5: [5]}
    numbers = Numbers(100, lambda pid: ids.get(pid, []))
    assert [numbers.of(pid) for pid in (100, 101, 102, 5, 999, 0)] == [7, 8, 9, 0, 0, 0]
    assert Numbers(999, lambda pid: ids.get(pid, [])).of(101) == 0
