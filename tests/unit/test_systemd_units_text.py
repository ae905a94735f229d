# SPDX-License-Identifier: Apache-2.0
"""The shipped units name this installation and what the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcgroup.daemon import units
from agentcgroup.daemon.config import Config
from agentcgroup.errors import ConfigError


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "find_program", lambda name: f"/opt/a/{name}")
    monkeypatch.setattr(units, "_daemon_command", lambda: "/opt/a/bin/agentcgroupd")


def test_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    for path in units.install(Config(), tmp_path):
        text = path.read_text()
        assert "@" not in text.replace("@system-service", "").replace("~@", "").replace(" @", "")
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
        assert path.stat().st_mode & 0o777 == 0o644
    assert {path.name for path in tmp_path.iterdir()} == set(units.UNITS)


def test_the_guardian_follows_the_configuration() -> None:
    config = Config.model_validate(
        {"daemon": {"root": "/sys/fs/cgroup/x", "run_dir": "/run/y", "guardian_timeout_s": 0.5}}
    )
    text = units.render("agentcgroup-guardian.service", config)
    command = "/opt/a/agentcgroup-guardian --root /sys/fs/cgroup/x"
    assert f"ExecStart={command} --heartbeat /run/y/guardian.fifo --timeout 0.5\n" in text


def test_daemon_and_guardian_agree(tmp_path: Path) -> None:
    daemon = units.render("agentcgroupd.service", Config())
    assert "Environment=AGENTCGROUP_GUARDIAN_SERVICE=1\n" in daemon
    assert "ExecStart=/opt/a/bin/agentcgroupd\n" in daemon
    for setting in ("PrivateUsers=", "PrivatePIDs=", "ProtectProc=", "PrivateNetwork="):
        assert f"\n{setting}" not in daemon, "clients are recognised by pid and namespaces"


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="make it writable"):
        units.install(Config(), tmp_path / "missing")
    monkeypatch.setattr(units, "find_program", lambda name: None)
    with pytest.raises(ConfigError, match="install agentcgroup"):
        units.install(Config(), tmp_path)
    assert list(tmp_path.iterdir()) == []
