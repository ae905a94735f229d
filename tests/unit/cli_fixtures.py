# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, against a fake daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_fake import Run
from client_fake_daemon import FakeDaemon

from agentcgroup.cli import main as cli_main
from agentcgroup.client import child


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setattr(child, "static_launcher", lambda: None)
    monkeypatch.setenv("COLUMNS", "160")
    with FakeDaemon(tmp_path) as running:
        monkeypatch.setenv("AGENTCGROUP_SOCKET", running.agent_path)
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def runner(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentcgroup", *arguments])
        monkeypatch.setattr("agentcgroup.cli.handover.static_launcher", lambda: None)
        with pytest.raises(SystemExit) as ended:
            cli_main.main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), out, err

    return runner
