# SPDX-License-Identifier: Apache-2.0
"""A kernel that cannot say who is calling: agents are refused, administrators are not."""

from __future__ import annotations

import pytest
from harness import PrivateDaemon
from identity_world import Puppet

from agentcgroup.daemon.identity import peer_pidfd_offered

pytestmark = [pytest.mark.guest, pytest.mark.smoke]


def test_what_the_kernel_offers(kernel_role: str) -> None:
    assert peer_pidfd_offered() == (kernel_role != "lts")


def test_agents_are_known_or_refused(daemon: PrivateDaemon) -> None:
    daemon.start().client.create_session("A", memory="100M")
    puppet = Puppet(daemon, "user", daemon.root / "A" / "agent", [])
    try:
        assert puppet.ask("host.version") == "ok"
        expected = "ok" if peer_pidfd_offered() else "not_supported"
        assert puppet.ask("session.get") == expected
        # Administrators are served either way.
        assert [s.name for s in daemon.client.sessions()] == ["A"]
        shim = daemon.shim("true", session="A", inside=True)
        status = shim.wait()
        assert status == (0 if peer_pidfd_offered() else 78), shim.stderr
        if status:
            assert "SO_PEERPIDFD" in shim.stderr
    finally:
        puppet.close()
