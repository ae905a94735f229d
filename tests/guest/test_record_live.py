# SPDX-License-Identifier: Apache-2.0
"""`trace record --session`: a live session's calls, at the daemon's times, with samples of ours."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import PrivateDaemon

from agentcgroup.replay.record import record_session
from agentcgroup.trace.format import read_trace
from agentcgroup.trace.load import load_session_trace

pytestmark = [pytest.mark.guest]

GROW = "x = bytearray(b'x' * (100 << 20)); import time; time.sleep(1)"


def test_a_live_session_is_recorded_until_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    with PrivateDaemon() as daemon:
        daemon.start()
        daemon.client.create_session("s", memory="600M")
        stop = threading.Event()
        begun: list[int] = []
        following = threading.Thread(
            target=lambda: begun.append(
                record_session("s", out, interval_ms=50, socket=str(daemon.socket), stop=stop)
            )
        )
        following.start()
        time.sleep(1)
        assert daemon.shim(sys.executable, "-c", GROW, session="s").wait() == 0
        assert daemon.shim("sh", "-c", "exit 4", session="s").wait() == 4
        daemon.client.end_session("s")
        following.join(20)
        assert not following.is_alive(), "it ends with the session"
        assert daemon.stop() == 0
    assert begun == [2]
    trace = read_trace(out)
    assert trace.damage == []
    loaded = load_session_trace(out)
    assert [call.begin_s < call.end_s for call in loaded.calls] == [True, True]
    assert loaded.peak_bytes >= 100 << 20
    leaf = [r for r in trace.records if r["kind"] == "sample" and "call" in r]
    assert max(r["memory_current_bytes"] for r in leaf) >= 100 << 20
    own = [r["t_ns"] for r in trace.records if r["kind"] == "sample" and "call" not in r]
    gaps = sorted(b - a for a, b in itertools.pairwise(own))
    assert 30e6 < gaps[len(gaps) // 2] < 120e6
