# SPDX-License-Identifier: Apache-2.0
"""A kernel that cannot say who is calling: agents are refused, administrators are not."""

from __future__ import annotations

import os
import subprocess

import pytest
from harness import PrivateDaemon, enter_cgroup
from identity_world import WHO, Puppet

from agentcgroup.daemon.identity import peer_pidfd_offered
from agentcgroup.programs import find_program

pytestmark = [pytest.mark.guest, pytest.mark.smoke]


def run_as_user(daemon: PrivateDaemon) -> subprocess.CompletedProcess[str]:
    """agentcgroup-run in A's agent/; as root it would turn to the administrators' socket."""
    program = find_program("agentcgroup-run")
    assert program is not None
    return subprocess.run(
        [*WHO["user"], program, "--", "echo", "ran"],
        env={**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)},
        preexec_fn=lambda: enter_cgroup(daemon.root / "A" / "agent"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


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
        shim = run_as_user(daemon)
        if peer_pidfd_offered():
            assert (shim.returncode, shim.stdout) == (0, "ran\n"), shim.stderr
        else:
            assert (shim.returncode, shim.stdout) == (78, "")
            assert "SO_PEERPIDFD" in shim.stderr
    finally:
        puppet.close()
