# SPDX-License-Identifier: Apache-2.0
"""cgroupfs on a real kernel: what the contract can't show on the in-memory tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest
from cgroupfs_scratch import DEADLINE_S, allocating, eventually

from agentcgroup.cgroupfs import files, pidfd, proc, tree
from agentcgroup.cgroupfs.handle import Cgroup
from agentcgroup.cgroupfs.watch import Change, PsiTrigger, Watcher, psi_trigger
from agentcgroup.errors import CgroupGoneError
from agentcgroup.units import MIB

pytest_plugins = ["cgroupfs_root"]
pytestmark = [pytest.mark.guest, pytest.mark.smoke]

NOBODY = 65534


class TestTree:
    def test_find_root(self, root: Cgroup) -> None:
        with tree.find_root(root.path, ("memory", "pids")) as found:
            assert found.id == root.id
        with pytest.raises(tree.DelegationError, match="nonsense"):
            tree.find_root(root.path, ("nonsense",))

    def test_find_root_without_the_controller(self, root: Cgroup) -> None:
        inner = root.create("inner").create("leaf")
        with pytest.raises(tree.DelegationError, match=r"cgroup\.subtree_control") as caught:
            tree.find_root(inner.path)
        assert caught.value.field == "root"

    def test_find_root_of_somebody_else(self, root: Cgroup) -> None:
        code = (
            "import os, sys\n"
            f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "from agentcgroup.cgroupfs import tree\n"
            "try:\n"
            f"    tree.find_root({root.path!r})\n"
            "except tree.DelegationError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert "not writable" in done.stdout
        assert "Delegate=yes" in done.stdout
        for file in (".", files.CGROUP_PROCS, files.CGROUP_SUBTREE_CONTROL):
            os.chown(file, NOBODY, NOBODY, dir_fd=root.fd)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == ""

    def test_find_root_in_a_threaded_subtree(self, root: Cgroup) -> None:
        leaf = root.create("inner").create("leaf")
        leaf.write(files.CGROUP_TYPE, "threaded")
        with pytest.raises(tree.DelegationError, match="threaded"):
            tree.find_root(leaf.path, ())

    def test_inner_processes(self, root: Cgroup) -> None:
        inner = root.create("inner")
        with (
            allocating(inner, 1) as process,
            pytest.raises(tree.DelegationError, match=str(process.pid)),
        ):
            tree.enable_controllers(inner, ["memory"])

    def test_ancestors_and_paths(self, root: Cgroup) -> None:
        leaf = root.create("a").create("b")
        above = tree.ancestors(leaf)
        assert [cg.name for cg in above][:2] == ["a", root.name]
        assert above[1].id == root.id
        assert above[-1].path == proc.cgroup2_mount_point()
        for cg in above:
            cg.close()
        with allocating(leaf, 1) as process:
            assert proc.cgroup_path(process.pid) == tree.proc_path(leaf)

    def test_walk(self, root: Cgroup) -> None:
        for name in ("a", "b"):
            root.create(name).create("leaf")
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        assert [cg.name for cg in tree.walk(root)] == ["a", "leaf", "b", "leaf"]
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


class TestHandle:
    def test_open_is_by_inode(self, root: Cgroup) -> None:
        call = root.create("call")
        with Cgroup.open(call.path) as again:
            assert again.id == call.id == os.stat(call.path).st_ino  # noqa: PTH116
        call.remove()
        with pytest.raises(CgroupGoneError):
            Cgroup.open(call.path)

    def test_descriptor_kept_open_over_removal(self, root: Cgroup) -> None:
        call = root.create("call")
        fd = call.open_file(files.MEMORY_CURRENT, os.O_RDONLY)
        try:
            call.remove()
            with pytest.raises(OSError) as caught:
                os.pread(fd, 64, 0)
            assert caught.value.strerror == "No such device"
        finally:
            os.close(fd)

    def test_peak_is_reset_per_descriptor(self, root: Cgroup) -> None:
        """Since 6.12; older kernels have no writable memory.peak."""
        call = root.create("call")
        try:
            fd = call.open_file(files.MEMORY_PEAK, os.O_RDWR)
        except PermissionError:
            return
        try:
            with allocating(call, 32) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ok\n"
            assert int(os.pread(fd, 64, 0)) > 32 * MIB
            try:
                os.write(fd, b"reset\n")
            except OSError:
                return
            assert int(os.pread(fd, 64, 0)) < 32 * MIB
            assert int(call.read(files.MEMORY_PEAK)) > 32 * MIB
        finally:
            os.close(fd)

    @pytest.mark.long
    def test_more_processes_than_one_read_returns(self, root: Cgroup) -> None:
        call = root.create("call")
        script = "for i in $(seq 1200); do sleep 1000 & done; echo ok; wait"
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: call.move(os.getpid()),  # noqa: PLW1509
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ok\n"
        found = call.procs()
        assert len(found) == len(set(found)) == 1201
        assert process.pid in found
        call.kill()
        process.communicate(timeout=DEADLINE_S)
        assert eventually(lambda: not call.populated())
        assert call.procs() == []

    def test_remove_while_it_empties(self, root: Cgroup) -> None:
        call = root.create("call")
        with allocating(call, 1):
            call.kill()

            def removed() -> bool:
                try:
                    return call.remove()
                except OSError:
                    return False

            assert eventually(removed)


class TestWatch:
    def test_events_of_several_cgroups(self, root: Cgroup) -> None:
        one, two = root.create("one"), root.create("two")
        with Watcher() as watcher:
            for cg in (one, two):
                watcher.add(cg, files.CGROUP_EVENTS)
                watcher.add(cg, files.MEMORY_EVENTS)
            assert watcher.read() == []
            one.freeze(True)
            assert _waited(watcher) == [Change(one.id, files.CGROUP_EVENTS)]
            two.write(files.MEMORY_SWAP_MAX, "0")
            two.write(files.MEMORY_MAX, "24M")
            with allocating(two, 64) as process:
                process.wait(DEADLINE_S)
            assert eventually(lambda: not two.populated())
            seen = _waited(watcher)
            assert Change(two.id, files.MEMORY_EVENTS) in seen
            assert Change(two.id, files.CGROUP_EVENTS) in seen
            assert not [change for change in seen if change.cgroup_id == one.id]

    def test_removed_and_recreated(self, root: Cgroup) -> None:
        old = root.create("call")
        with Watcher() as watcher:
            watcher.add(old, files.CGROUP_EVENTS)
            old.remove()
            new = root.create("call")
            new.freeze(True)
            time.sleep(0.1)
            assert all(change == Change(old.id, files.CGROUP_EVENTS, gone=True)
                       for change in watcher.read())  # fmt: skip
            watcher.add(new, files.CGROUP_EVENTS)
            new.freeze(False)
            assert _waited(watcher) == [Change(new.id, files.CGROUP_EVENTS)]
            watcher.remove(new.id)
            watcher.remove(old.id)
            new.freeze(True)
            time.sleep(0.1)
            assert watcher.read() == []
            with pytest.raises(CgroupGoneError):
                watcher.add(old, files.CGROUP_EVENTS)

    def test_psi_trigger_polls(self, root: Cgroup) -> None:
        call = _under_pressure(root)
        fd = psi_trigger(call, "some", 50_000, 500_000)
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        try:
            with allocating(call, 64, again=True):
                assert poll.poll(DEADLINE_S * 1000) == [(fd, select.POLLPRI)]
        finally:
            os.close(fd)

    def test_psi_trigger_refused(self, root: Cgroup) -> None:
        with pytest.raises(OSError, match=r"some 600000 500000.*memory\.pressure"):
            psi_trigger(root, "some", 600_000, 500_000)

    def test_psi_trigger_wakes_asyncio_and_ends_with_its_cgroup(self, root: Cgroup) -> None:
        call = _under_pressure(root)
        trigger = PsiTrigger(call, "some", 50_000, 500_000)
        fired: list[bool] = []

        async def watch() -> None:
            loop = asyncio.get_running_loop()
            twice, gone = asyncio.Event(), asyncio.Event()

            def readable() -> None:
                fired.append(trigger.acknowledge())
                if not fired[-1]:
                    gone.set()
                elif len(fired) >= 2:
                    twice.set()

            loop.add_reader(trigger.fileno(), readable)
            with allocating(call, 64, again=True):
                await asyncio.wait_for(twice.wait(), DEADLINE_S)
            await asyncio.sleep(0.6)
            calm = len(fired)
            await asyncio.sleep(0.6)
            assert len(fired) - calm <= 1
            assert eventually(lambda: not call.populated())
            call.remove()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), 1)
            after = len(fired)
            await asyncio.sleep(0.2)
            assert len(fired) == after
            loop.remove_reader(trigger.fileno())

        try:
            asyncio.run(watch())
        finally:
            trigger.close()
        assert len(fired) < 20


class TestPeers:
    def test_peer_over_a_socket(self) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0cgroupfs-test")
            server.listen()
            script = (
                "import socket, sys\n"
                "s = socket.socket(socket.AF_UNIX); s.connect('\\0cgroupfs-test')\n"
                "sys.stdin.read()\n"
            )
            with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
                connection, _ = server.accept()
                with connection:
                    assert pidfd.peer_credentials(connection) == (child.pid, 0, 0)
                    fd = pidfd.peer_pidfd(connection)
                    child.communicate()
                    if fd is None:
                        # Before 6.5 there is no SO_PEERPIDFD.
                        return
                    assert pidfd.pid_of(fd) is None
                    assert not pidfd.is_alive(fd)
                    os.close(fd)

    def test_kernel_threads_are_told_apart(self) -> None:
        kthread, init = proc.status(2), proc.status(1)
        assert kthread is not None and kthread.is_kthread
        assert init is not None and not init.is_kthread
        assert proc.cmdline(2) == "[kthreadd]"


class TestThreads:
    def test_handles_are_usable_from_threads(self, root: Cgroup) -> None:
        call = root.create("call")
        failures: list[BaseException] = []

        def hammer() -> None:
            try:
                for _ in range(200):
                    call.read(files.MEMORY_STAT)
                    root.children()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def _waited(watcher: Watcher) -> list[Change]:
    """Changes until it has been quiet for a moment."""
    found: list[Change] = []
    wait_s = DEADLINE_S
    while select.select([watcher], [], [], wait_s)[0]:
        found += watcher.read()
        wait_s = 0.2
    return list(dict.fromkeys(found))


def _under_pressure(root: Cgroup) -> Cgroup:
    """A leaf whose memory.high a 64 MiB process stalls at, again and again."""
    call = root.create("call")
    call.write(files.MEMORY_SWAP_MAX, "0")
    call.write(files.MEMORY_HIGH, "24M")
    return call
