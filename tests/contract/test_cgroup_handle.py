# SPDX-License-Identifier: Apache-2.0
"""What every CgroupLike does, checked on the kernel and on the hierarchy in memory."""

from __future__ import annotations

import errno
import os

import pytest
from cgroup_backends import Backend, eventually

from agentcgroup.cgroupfs import files
from agentcgroup.errors import CgroupGoneError, InvalidValueError, NotSupportedError
from agentcgroup.units import MIB

pytest_plugins = ["cgroup_host"]


class TestDirectories:
    def test_create_child_children_remove(self, host: Backend) -> None:
        call = host.root.create("call")
        assert host.root.children() == ["call"]
        assert call.name == "call"
        assert call.path.endswith("/call")
        assert host.root.child("call").id == call.id
        assert call.exists()
        assert call.remove() is True
        assert call.remove() is False
        assert host.root.children() == []

    def test_create_existing(self, host: Backend) -> None:
        call = host.root.create("call")
        with pytest.raises(FileExistsError, match="call"):
            host.root.create("call")
        assert host.root.create("call", exist_ok=True).id == call.id

    def test_missing_child_is_gone(self, host: Backend) -> None:
        with pytest.raises(CgroupGoneError, match="nothing"):
            host.root.child("nothing")

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
    def test_name_is_one_component(self, host: Backend, name: str) -> None:
        with pytest.raises(InvalidValueError):
            host.root.create(name)
        with pytest.raises(InvalidValueError):
            host.root.child(name)

    def test_same_name_is_another_cgroup(self, host: Backend) -> None:
        old = host.root.create("call")
        old.remove()
        new = host.root.create("call")
        assert new.id != old.id
        assert not old.exists()
        assert old.remove() is False
        assert new.exists()
        with pytest.raises(CgroupGoneError):
            old.write(files.CGROUP_FREEZE, "1")
        assert new.read(files.CGROUP_FREEZE) == "0"

    def test_remove_refuses_children_and_processes(self, host: Backend) -> None:
        call = host.root.create("call")
        below = call.create("below")
        with pytest.raises(OSError, match="call") as caught:
            call.remove()
        assert caught.value.errno == errno.EBUSY
        pid = host.spawn(below)
        with pytest.raises(OSError, match="below") as caught:
            call.remove_tree()
        assert caught.value.errno == errno.EBUSY
        host.end(pid)
        assert eventually(lambda: not below.populated())
        assert call.remove_tree() is True
        assert not below.exists()

    def test_removal_survives_the_parents_handle(self, host: Backend) -> None:
        session = host.root.create("session")
        call = session.create("call")
        session.close()
        assert call.exists()
        assert call.remove() is True

    def test_descendants_are_bounded(self, host: Backend) -> None:
        host.root.write(files.CGROUP_MAX_DESCENDANTS, "1")
        host.root.create("one")
        with pytest.raises(OSError, match="two") as caught:
            host.root.create("two")
        assert caught.value.errno == errno.EAGAIN

    def test_depth_is_bounded(self, host: Backend) -> None:
        host.root.write(files.CGROUP_MAX_DEPTH, "1")
        call = host.root.create("one")
        with pytest.raises(OSError, match="below") as caught:
            call.create("below")
        assert caught.value.errno == errno.EAGAIN

    def test_closed_handle_refuses(self, host: Backend) -> None:
        call = host.root.create("call")
        with call:
            pass
        call.close()
        with pytest.raises(OSError) as caught:
            call.read(files.CGROUP_PROCS)
        assert caught.value.errno == errno.EBADF


class TestGone:
    def test_gone_is_an_ordinary_result(self, host: Backend) -> None:
        call = host.root.create("call")
        call.remove()
        assert call.exists() is False
        assert call.children() == []
        assert call.try_read(files.CGROUP_EVENTS) is None
        assert call.remove_tree() is False
        for refused in (
            lambda: call.read(files.CGROUP_EVENTS),
            lambda: call.write(files.CGROUP_FREEZE, "1"),
            lambda: call.write_nonblocking(files.CGROUP_FREEZE, "1"),
            lambda: call.open_file(files.CGROUP_EVENTS, os.O_RDONLY),
            lambda: call.move(os.getpid()),
            lambda: call.create("below"),
            lambda: call.child("below"),
            call.procs,
            call.kill,
            call.populated,
        ):
            with pytest.raises(CgroupGoneError):
                refused()


class TestControlFiles:
    @pytest.mark.parametrize(
        ("file", "text", "reads"),
        [
            (files.MEMORY_MAX, "max", "max"),
            (files.MEMORY_MAX, "1M", "1048576"),
            (files.MEMORY_MAX, "5000", "4096"),
            (files.MEMORY_MAX, "0x2000", "8192"),
            (files.MEMORY_MAX, "9223372036854775807", "max"),
            (files.MEMORY_HIGH, "1g\n", "1073741824"),
            (files.MEMORY_HIGH, "0", "0"),
            (files.MEMORY_LOW, "64K", "65536"),
            (files.MEMORY_MIN, "max", "max"),
            (files.MEMORY_SWAP_MAX, "0", "0"),
            (files.MEMORY_OOM_GROUP, "1", "1"),
            (files.PIDS_MAX, "512", "512"),
            (files.PIDS_MAX, "0", "0"),
            (files.CPU_WEIGHT, "10000", "10000"),
            (files.CPU_MAX, "50000", "50000 100000"),
            (files.CPU_MAX, "50000 20000", "50000 20000"),
            (files.CPU_MAX, "max 50000", "max 50000"),
            (files.CPU_IDLE, "1", "1"),
            (files.CGROUP_MAX_DESCENDANTS, "7", "7"),
            (files.CGROUP_MAX_DEPTH, "max", "max"),
        ],
    )
    def test_written_reads_back(self, host: Backend, file: str, text: str, reads: str) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids")
        call = host.root.create("call")
        call.write(file, text)
        assert call.read(file) == reads

    @pytest.mark.parametrize(
        ("file", "text", "number"),
        [
            (files.MEMORY_MAX, "-1", errno.EINVAL),
            (files.MEMORY_MAX, "1 M", errno.EINVAL),
            (files.MEMORY_MAX, "lots", errno.EINVAL),
            (files.MEMORY_HIGH, "1.5G", errno.EINVAL),
            (files.MEMORY_OOM_GROUP, "2", errno.EINVAL),
            (files.PIDS_MAX, "-1", errno.EINVAL),
            (files.PIDS_MAX, "many", errno.EINVAL),
            (files.CPU_WEIGHT, "0", errno.ERANGE),
            (files.CPU_WEIGHT, "10001", errno.ERANGE),
            (files.CPU_WEIGHT, "x", errno.EINVAL),
            (files.CPU_MAX, "10", errno.EINVAL),
            (files.CPU_MAX, "5000 10", errno.EINVAL),
            (files.CPU_IDLE, "2", errno.EINVAL),
            (files.CGROUP_FREEZE, "2", errno.ERANGE),
            (files.CGROUP_FREEZE, "x", errno.EINVAL),
            (files.CGROUP_KILL, "0", errno.ERANGE),
            (files.CGROUP_PROCS, "x", errno.EINVAL),
            (files.CGROUP_SUBTREE_CONTROL, "+nonsense", errno.EINVAL),
            (files.CGROUP_SUBTREE_CONTROL, "memory", errno.EINVAL),
            (files.CGROUP_EVENTS, "1", errno.EINVAL),
        ],
    )
    def test_refused_names_file_and_value(
        self, host: Backend, file: str, text: str, number: int
    ) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids")
        call = host.root.create("call")
        with pytest.raises(OSError) as caught:
            call.write(file, text)
        assert caught.value.errno == number
        assert file in str(caught.value)
        assert f"'{text}'" in str(caught.value)

    def test_fresh_cgroup(self, host: Backend) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids")
        call = host.root.create("call")
        assert call.read_int(files.MEMORY_MAX) is None
        assert call.read_int(files.MEMORY_HIGH) is None
        assert call.read_int(files.MEMORY_CURRENT) == 0
        assert call.read_int(files.PIDS_CURRENT) == 0
        assert call.read_int(files.CPU_WEIGHT) == 100
        assert call.keyed(files.CGROUP_EVENTS) == {"populated": 0, "frozen": 0}
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom_kill"] == 0
        assert set(call.keyed(files.CPU_STAT)) >= {"usage_usec", "throttled_usec"}
        assert call.read(files.CGROUP_TYPE) == "domain"
        assert call.procs() == []

    def test_idle_has_no_weight(self, host: Backend) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+cpu")
        call = host.root.create("call")
        call.write(files.CPU_WEIGHT, "50")
        call.write(files.CPU_IDLE, "1")
        # The lowest share there is: 0 or 1 by kernel.
        assert call.read_int(files.CPU_WEIGHT) in (0, 1)
        with pytest.raises(OSError) as caught:
            call.write(files.CPU_WEIGHT, "50")
        assert caught.value.errno == errno.EINVAL
        call.write(files.CPU_IDLE, "0")
        assert call.read(files.CPU_WEIGHT) == "100"

    def test_write_only_file(self, host: Backend) -> None:
        with pytest.raises(OSError, match=files.CGROUP_KILL) as caught:
            host.root.read(files.CGROUP_KILL)
        assert caught.value.errno == errno.EINVAL

    def test_missing_file_names_the_controller(self, host: Backend) -> None:
        call = host.root.create("call")
        assert call.try_read(files.MEMORY_MAX) is None
        for refused in (
            lambda: call.read(files.MEMORY_MAX),
            lambda: call.write(files.MEMORY_MAX, "1M"),
            lambda: call.open_file(files.MEMORY_MAX, os.O_RDONLY),
        ):
            with pytest.raises(NotSupportedError, match="memory"):
                refused()

    def test_write_nonblocking(self, host: Backend) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        call = host.root.create("call")
        assert call.write_nonblocking(files.MEMORY_HIGH, "8M") is True
        assert call.read_int(files.MEMORY_HIGH) == 8 * MIB

    def test_open_file_is_readable_at_the_start(self, host: Backend) -> None:
        fd = host.root.open_file(files.CGROUP_EVENTS, os.O_RDONLY)
        try:
            assert b"populated 0" in os.pread(fd, 4096, 0)
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)


class TestControllers:
    def test_enabled_above_appears_below(self, host: Backend) -> None:
        assert set(host.root.read(files.CGROUP_CONTROLLERS).split()) >= {"memory", "pids", "cpu"}
        call = host.root.create("call")
        assert call.read(files.CGROUP_CONTROLLERS) == ""
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +pids")
        assert call.read(files.CGROUP_CONTROLLERS) == "memory pids"
        assert call.read_int(files.PIDS_MAX) is None
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "-pids")
        assert call.try_read(files.PIDS_MAX) is None

    def test_not_available_here(self, host: Backend) -> None:
        call = host.root.create("call")
        with pytest.raises(FileNotFoundError) as caught:
            call.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        assert not isinstance(caught.value, CgroupGoneError)

    def test_in_use_below_stays(self, host: Backend) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        host.root.create("call").write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        with pytest.raises(OSError) as caught:
            host.root.write(files.CGROUP_SUBTREE_CONTROL, "-memory")
        assert caught.value.errno == errno.EBUSY

    def test_no_internal_processes(self, host: Backend) -> None:
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        inner = host.root.create("inner")
        pid = host.spawn(inner)
        with pytest.raises(OSError) as caught:
            inner.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        assert caught.value.errno == errno.EBUSY
        leaf = inner.create("leaf")
        leaf.move(pid)
        inner.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        with pytest.raises(OSError) as caught:
            inner.move(pid)
        assert caught.value.errno == errno.EBUSY
        assert leaf.procs() == [pid]
