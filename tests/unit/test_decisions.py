# SPDX-License-Identifier: Apache-2.0
"""The decision log never costs a tool call its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentcgroup.daemon.decisions import Decisions
from agentcgroup.trace.format import TraceWriter, read_trace
from agentcgroup.types import actions as act


class FullDisk:
    def write(self, record: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Nothing was opened."""


def test_unknown_is_absent_and_the_file_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    decisions = Decisions(TraceWriter(path, {"role": "test"}))
    because = act.Because(act.Code.GROWING, "memory was free", {"grant_bytes": 5})
    decisions.record(1, "call_end", "s", "c", {"signal": None, "command": "", "exit_code": 0})
    decisions.decided(2, act.SetGrant("s", "c", None, because), applied=False)
    decisions.record(3, "dropped", None, None, {"count": 2})
    decisions.close()
    end, decision, dropped = read_trace(path).records
    assert end == {"t_ns": 1, "kind": "call_end", "session": "s", "call": "c", "exit_code": 0}
    assert decision["observed_only"] is True
    assert decision["why"] == "memory was free"
    assert "session" not in dropped


def test_a_full_disk_is_survived_and_subscribers_still_hear() -> None:
    heard: list[dict[str, Any]] = []
    decisions = Decisions(FullDisk())
    decisions.subscribe(1, heard.append)
    decisions.record(1, "session", "s", None, {"event": "begin"})
    assert [record["event"] for record in heard] == ["begin"]
    decisions.unsubscribe(1)
    decisions.record(2, "session", "s", None, {"event": "end"})
    assert len(heard) == 1
