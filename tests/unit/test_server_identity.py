# SPDX-License-Identifier: Apache-2.0
"""Who a peer is, with real processes and real sockets (no cgroups needed)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_support import FakeRegistry, eventually, own_cgroup_path

from agentcgroup.cgroupfs import pidfd, proc
from agentcgroup.daemon.identity import Location, Namespaces, PeerHandle, peer_pidfd_offered
from agentcgroup.daemon.identity_ancestors import outside_session_of
from agentcgroup.protocol.errors import ProtocolError
from agentcgroup.protocol.messages import Access

OWN = Namespaces.of("self")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        yield sock


@contextlib.contextmanager
def peer_of(
    listening: socket.socket, *, admin: bool = False, offered: bool = True,
    namespaces: Namespaces | None = OWN, command: tuple[str, ...] = (),
) -> Iterator[tuple[PeerHandle, subprocess.Popen[bytes]]]:  # fmt: skip
    """A child process (under `command`) that is connected, and the server's view of it."""
    code = "import socket, sys, time; s = socket.socket(socket.AF_UNIX);" \
           "s.connect(sys.argv[1]); time.sleep(60)"  # fmt: skip
    child = subprocess.Popen([*command, sys.executable, "-c", code, listening.getsockname()])
    try:
        listening.settimeout(20)
        accepted, _ = listening.accept()
        peer = PeerHandle(accepted, namespaces, admin=admin, offered=offered)
        with accepted:
            yield peer, child
        peer.close()
    finally:
        child.kill()
        child.wait()


def refusal(peer: PeerHandle, registry: FakeRegistry) -> str:
    with pytest.raises(ProtocolError) as refused:
        peer.identify(registry)
    assert refused.value.remedy and refused.value.field
    return refused.value.kind.value


@pytest.mark.parametrize(
    ("place", "role"),
    [("agent", Access.AGENT), ("session", Access.AGENT), ("leaf", Access.LEAF),
     ("background", Access.LEAF)],
)  # fmt: skip
def test_the_cgroup_decides(listening: socket.socket, place: str, role: Access) -> None:
    registry = FakeRegistry()
    with peer_of(listening) as (peer, child):
        assert peer.identify(registry).role is Access.ANYONE
        registry.locations[own_cgroup_path()] = Location("A", place, "c1")  # type: ignore[arg-type]
        who = peer.identify(registry)
        assert (who.role, who.session, who.call) == (role, "A", "c1")
        assert (who.pid, who.uid) == (child.pid, os.getuid())
        assert pidfd.pid_of(who.pidfd) == child.pid
        registry.locations.clear()
        assert peer.identify(registry).role is Access.ANYONE


@pytest.mark.parametrize("reaped", [False, True])
def test_a_dead_peer_is_nobody(listening: socket.socket, reaped: bool) -> None:
    registry = FakeRegistry()
    registry.locations[own_cgroup_path()] = Location("A", "agent")
    with peer_of(listening) as (peer, child):
        assert peer.identify(registry).session == "A"
        child.kill()
        if reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert refusal(peer, registry) == "no_identity"


def test_a_peer_dead_before_accept_is_nobody(listening: socket.socket) -> None:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, listening.getsockname()], check=True)
    accepted, _ = listening.accept()
    with accepted:
        peer = PeerHandle(accepted, OWN, admin=False, offered=True)
        assert refusal(peer, FakeRegistry()) == "no_identity"
        peer.close()


def test_a_reused_number_is_not_the_peer(listening: socket.socket) -> None:
    """The number now belongs to a live process in a session: still nobody."""
    registry = FakeRegistry()
    registry.locations[own_cgroup_path()] = Location("A", "agent")
    with peer_of(listening) as (peer, child):
        child.kill()
        child.wait()
        peer.pid = os.getpid()
        assert refusal(peer, registry) == "no_identity"


def test_without_peer_pidfd_agents_are_refused(listening: socket.socket) -> None:
    registry = FakeRegistry()
    registry.locations[own_cgroup_path()] = Location("A", "agent")
    with peer_of(listening, offered=False) as (peer, child):
        assert refusal(peer, registry) == "not_supported"
        assert peer.stranger().pid == child.pid


def test_without_peer_pidfd_administrators_are_served(listening: socket.socket) -> None:
    with peer_of(listening, admin=True, offered=False) as (peer, child):
        assert peer.identify(FakeRegistry()).role is Access.ADMIN
        child.kill()
        child.wait()
        assert refusal(peer, FakeRegistry()) == "no_identity"


def test_administrators_may_be_anywhere(listening: socket.socket) -> None:
    registry = FakeRegistry()
    with peer_of(listening, admin=True) as (peer, _):
        assert peer.identify(registry).session is None
        registry.locations[own_cgroup_path()] = Location("A", "leaf", "c1")
        who = peer.identify(registry)
        assert (who.role, who.session, who.call) == (Access.ADMIN, "A", "c1")


@pytest.mark.parametrize("flags", ["-r", "-pf"])
@pytest.mark.skipif(os.getuid() != 0, reason="only root makes these namespaces")
def test_own_namespaces_make_no_administrator(listening: socket.socket, flags: str) -> None:
    with peer_of(listening, admin=True, command=("unshare", flags)) as (peer, _):
        assert peer.uid == 0
        assert refusal(peer, FakeRegistry()) == "not_permitted"


def test_the_kernel_here_offers_peer_pidfds() -> None:
    assert peer_pidfd_offered()


def test_descendants_of_an_outside_agent_are_its_session() -> None:
    agent = (os.getpid(), proc.start_time_ticks(os.getpid()) or 0)
    bound = {agent: "A"}.get
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    try:
        for pid in (os.getpid(), child.pid, grandchild):
            start = proc.start_time_ticks(pid) or 0
            assert outside_session_of(pid, start, lambda *who: bound(who)) == "A"
            # The same number with another start time is another process.
            assert outside_session_of(pid, start + 1, lambda *who: bound(who)) is None
        assert outside_session_of(1, 0, lambda *who: bound(who)) is None
        # Who loses its parent leaves the line.
        child.kill()
        child.wait()
        eventually(lambda: (proc.status(grandchild) or proc.status(1)).ppid != child.pid)  # type: ignore[union-attr]
        start = proc.start_time_ticks(grandchild) or 0
        assert outside_session_of(grandchild, start, lambda *who: bound(who)) is None
    finally:
        child.stdout.close()
        os.kill(grandchild, signal.SIGKILL)


def test_the_walk_is_bounded() -> None:
    asked = []
    outside_session_of(os.getpid(), proc.start_time_ticks(os.getpid()) or 0,
                       lambda pid, _: asked.append(pid))  # fmt: skip
    assert asked[0] == os.getpid()
    assert len(asked) == len(set(asked)) <= 64
