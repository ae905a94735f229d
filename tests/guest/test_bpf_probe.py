# SPDX-License-Identifier: Apache-2.0
"""Probes agree with what then really works on this kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcgroup.bpf.kernel_events import KernelEvents
from agentcgroup.bpf.probe import Answer, forget, probe_all

pytestmark = [pytest.mark.guest, pytest.mark.smoke]


def test_root_on_a_kernel_with_btf_gets_conclusive_answers() -> None:
    forget()
    found = {finding.name: finding for finding in probe_all()}
    for finding in found.values():
        print(f"{finding.name}: {finding.answer}: {finding.reason}")
        assert finding.answer is not Answer.UNKNOWN, finding
        assert finding.reason
    for name in ("libbpf", "btf", "bpf_syscall", "ring_buffer", "tracing"):
        assert found[name].answer is Answer.YES, found[name]
    assert (found["sched_ext"].answer is Answer.YES) == Path("/sys/kernel/sched_ext").is_dir()


def test_a_hook_that_is_promised_can_be_attached() -> None:
    root = Path("/sys/fs/cgroup")
    promised = {
        finding.name.removesuffix("_hook")
        for finding in probe_all()
        if finding.name.endswith("_hook") and finding.answer is Answer.YES
    }
    with KernelEvents.open(root.stat().st_ino, 0) as events:
        assert set(events.capabilities()) == promised
