# SPDX-License-Identifier: Apache-2.0
"""Readers of /proc and pidfds, on this process and its children."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentcgroup.cgroupfs import pidfd, proc, whereabouts

NO_SUCH_PID = (1 << 22) + 1


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    script = "import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", script, "a\x1bb"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class TestProc:
    def test_status(self, child: subprocess.Popen[bytes]) -> None:
        found = proc.status(child.pid)
        assert found is not None
        assert (found.pid, found.ppid, found.uid) == (child.pid, os.getpid(), os.getuid())
        assert found.start_ticks == proc.start_time_ticks(child.pid)
        assert not found.is_kthread
        assert proc.state(child.pid) in ("R", "S", "D")

    def test_who_stopped_and_who_is_about_to(self, child: subprocess.Popen[bytes]) -> None:
        assert not proc.stop_is_pending(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert proc.state(child.pid) == "T"
        assert not proc.stop_is_pending(child.pid)

    def test_status_of_a_zombie(self, child: subprocess.Popen[bytes]) -> None:
        assert proc.zombie_status(child.pid) is None
        fd = pidfd.open_pidfd(child.pid)
        try:
            child.kill()
            select.select([fd], [], [])
            assert proc.zombie_status(child.pid) == signal.SIGKILL
            child.wait()
            assert proc.zombie_status(child.pid) is None
            # Linux 6.15 and newer tell it afterwards, too.
            assert pidfd.exit_status(fd) in (signal.SIGKILL, None)
        finally:
            os.close(fd)

    def test_child_is_listed_with_size_and_start(self, child: subprocess.Popen[bytes]) -> None:
        assert child.pid in proc.children(os.getpid())
        assert (proc.rss_bytes(os.getpid()) or 0) > 1 << 20
        mine, its = proc.start_time_ticks(os.getpid()), proc.start_time_ticks(child.pid)
        assert mine is not None and its is not None and mine <= its

    def test_command_line_is_printable_and_short(self) -> None:
        script = "import sys; sys.stdin.read()"
        words = [sys.executable, "-c", script, "a\x1b[31mb\nc" + "x" * 200]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            # Popen returns at exec, a moment before the new arguments can be read.
            while (text := proc.cmdline(process.pid, limit=120)) is not None:
                if text.startswith(sys.executable):
                    break
            process.communicate()
        assert text is not None
        assert text.startswith(sys.executable)
        assert text.isprintable()
        assert len(text) == 120

    def test_biggest(self, child: subprocess.Popen[bytes]) -> None:
        biggest = proc.biggest_process([child.pid, NO_SUCH_PID])
        assert biggest is not None
        assert biggest.pid == child.pid
        assert biggest.rss_bytes
        assert proc.biggest_process([]) is None
        assert proc.biggest_process([NO_SUCH_PID]) is None

    def test_namespaces_are_shared_with_a_child(self, child: subprocess.Popen[bytes]) -> None:
        for kind in ("pid", "user"):
            assert proc.namespace_id(child.pid, kind) == proc.namespace_id("self", kind)

    def test_gone_is_none(self) -> None:
        assert proc.status(NO_SUCH_PID) is None
        assert proc.cgroup_path(NO_SUCH_PID) is None
        assert proc.start_time_ticks(NO_SUCH_PID) is None
        assert proc.cmdline(NO_SUCH_PID) is None
        assert proc.rss_bytes(NO_SUCH_PID) is None
        assert proc.children(NO_SUCH_PID) == []
        assert proc.namespace_id(NO_SUCH_PID, "pid") is None
        assert proc.lines("/proc/no-such-file") == []

    def test_mount_points(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table = [
            "30 25 0:26 /part /srv/part rw,relatime - cgroup2 cgroup2 rw",
            "31 25 0:26 / /sys/fs/a\\040b rw,relatime shared:9 - cgroup2 cgroup2 rw",
            "32 25 0:27 / /tmp rw - tmpfs tmpfs rw",
        ]
        monkeypatch.setattr(proc, "lines", lambda _path: table)
        assert proc.cgroup2_mount_point() == "/sys/fs/a b"
        monkeypatch.setattr(proc, "lines", lambda _path: table[:1])
        assert proc.cgroup2_mount_point() == "/srv/part"
        monkeypatch.setattr(proc, "lines", lambda _path: table[2:])
        assert proc.cgroup2_mount_point() is None


class TestPidfd:
    def test_life(self, child: subprocess.Popen[bytes]) -> None:
        fd = pidfd.open_pidfd(child.pid)
        try:
            assert not os.get_inheritable(fd)
            assert pidfd.pid_of(fd) == child.pid
            assert pidfd.is_alive(fd)
            assert pidfd.send_signal(fd, signal.SIGTERM)
            child.wait()
            assert not pidfd.is_alive(fd)
            assert pidfd.pid_of(fd) is None
            assert pidfd.send_signal(fd, signal.SIGTERM) is False
        finally:
            os.close(fd)

    def test_info_where_the_kernel_has_it(self, child: subprocess.Popen[bytes]) -> None:
        """And the path by cgroup id is the one that /proc shows, asked for once."""
        fd = pidfd.open_pidfd(child.pid)
        try:
            found = pidfd.info(fd)
            if found is None:
                assert whereabouts.path_of(fd, found) is None
                return
            assert found[:3] == (child.pid, os.getpid(), os.getuid())
            for _ in range(2):
                assert whereabouts.path_of(fd, found) == proc.cgroup_path(child.pid)
            child.kill()
            child.wait()
            assert pidfd.info(fd) is None
        finally:
            os.close(fd)

    def test_id_is_of_the_process(self, child: subprocess.Popen[bytes]) -> None:
        fds = [pidfd.open_pidfd(pid) for pid in (child.pid, child.pid, os.getpid())]
        try:
            first, again, other = (pidfd.pidfd_id(fd) for fd in fds)
        finally:
            for fd in fds:
                os.close(fd)
        assert first == again
        assert (first is None) == (other is None)
        assert first is None or first != other

    def test_another_descriptor_is_none(self) -> None:
        with open("/dev/null", "rb") as file:
            assert pidfd.info(file.fileno()) is None
            with pytest.raises(ValueError, match="not a pidfd"):
                pidfd.pid_of(file.fileno())

    def test_missing_process(self) -> None:
        with pytest.raises(OSError):
            pidfd.open_pidfd(NO_SUCH_PID)

    def test_peer(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert pidfd.peer_credentials(one) == (os.getpid(), os.geteuid(), os.getegid())
            fd = pidfd.peer_pidfd(one)
            if fd is not None:
                assert pidfd.pid_of(fd) == os.getpid()
                assert not os.get_inheritable(fd)
                os.close(fd)
