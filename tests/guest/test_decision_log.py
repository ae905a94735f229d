# SPDX-License-Identifier: Apache-2.0
"""The daemon's decision log is a trace: it validates, and tells the calls as they were."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import PrivateDaemon

from agentcgroup.trace.format import read_trace
from agentcgroup.trace.load import load_session_trace

pytestmark = [pytest.mark.guest]

GROW = "x = bytearray(b'x' * (150 << 20)); import time; time.sleep(1)"


def test_the_decision_log_is_a_trace(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with PrivateDaemon(daemon={"decision_log": str(log)}) as daemon:
        daemon.start()
        daemon.client.create_session("s", memory="600M")
        grows = daemon.shim(
            sys.executable, "-c", GROW, session="s", options=["--memory", "64M"]
        )  # fmt: skip
        assert grows.wait() == 0
        assert daemon.shim("sh", "-c", "exit 4", session="s").wait() == 4
        daemon.client.end_session("s")
        assert daemon.stop() == 0
    trace = read_trace(log)
    assert trace.damage == []
    kinds = {record["kind"] for record in trace.records}
    assert {"session", "call_begin", "call_end", "sample", "decision"} <= kinds
    growth = [r for r in trace.records if r.get("code") == "growing"]
    assert growth, "a call that outgrew its first grant was granted more"
    assert all(record["why"] for record in trace.records if record["kind"] == "decision")
    session = load_session_trace(log)
    assert len(session.calls) == 2
    assert session.peak_bytes >= 150 << 20
