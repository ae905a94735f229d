# SPDX-License-Identifier: Apache-2.0
"""What every CgroupLike does, checked on the kernel and on the hierarchy in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from cgroup_backends import Backend, FakeBackend, KernelBackend, eventually

from agentcgroup.cgroupfs import files
from agentcgroup.errors import CgroupGoneError, InvalidValueError, NotSupportedError
from agentcgroup.units import MIB

ON_THE_KERNEL = pytest.param(KernelBackend, marks=[pytest.mark.guest, pytest.mark.smoke], id="real")


@pytest.fixture(params=[pytest.param(FakeBackend, id="fake"), ON_THE_KERNEL])
def host(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend: Backend = request.param()
    try:
        yield backend
    finally:
        backend.close()


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


class TestProcesses:
    def test_move(self, host: Backend) -> None:
        one, two = host.root.create("one"), host.root.create("two")
        pid = host.spawn(one)
        assert one.procs() == [pid]
        assert one.populated()
        assert host.root.populated()
        assert host.root.procs() == []
        two.move(pid)
        assert one.procs() == []
        assert two.procs() == [pid]
        assert eventually(lambda: not one.populated())

    def test_move_of_an_ended_process(self, host: Backend) -> None:
        call = host.root.create("call")
        pid = host.spawn(call)
        host.end(pid)
        with pytest.raises(ProcessLookupError, match=r"cgroup\.procs"):
            host.root.move(pid)
        # Also where a live one would be refused.
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory")
        with pytest.raises(ProcessLookupError):
            host.root.move(pid)

    def test_kill_takes_the_subtree(self, host: Backend) -> None:
        call = host.root.create("call")
        other = host.root.create("other")
        pids = [host.spawn(call), host.spawn(call.create("below"))]
        spared = host.spawn(other)
        call.kill()
        assert eventually(lambda: not any(host.alive(pid) for pid in pids))
        assert eventually(lambda: not call.populated())
        assert host.alive(spared)
        assert call.procs() == []

    def test_freeze_and_thaw(self, host: Backend) -> None:
        call = host.root.create("call")
        below = call.create("below")
        host.spawn(below)
        assert not call.frozen()
        call.freeze(True)
        assert eventually(call.frozen)
        assert eventually(below.frozen)
        assert below.read(files.CGROUP_FREEZE) == "0"
        call.freeze(False)
        assert eventually(lambda: not call.frozen() and not below.frozen())

    def test_frozen_while_empty(self, host: Backend) -> None:
        call = host.root.create("call")
        call.freeze(True)
        assert eventually(call.frozen)

    def test_kill_of_a_frozen_one(self, host: Backend) -> None:
        call = host.root.create("call")
        pid = host.spawn(call)
        call.freeze(True)
        assert eventually(call.frozen)
        call.kill()
        assert eventually(lambda: not host.alive(pid))

    def test_entering_a_frozen_one_freezes(self, host: Backend) -> None:
        call = host.root.create("call")
        pid = host.spawn(host.root.create("other"))
        call.freeze(True)
        assert eventually(call.frozen)
        call.move(pid)
        assert eventually(call.frozen)
        call.freeze(False)
        assert eventually(lambda: not call.frozen())
        assert host.charge(pid, 4096)


class TestMemory:
    @pytest.fixture
    def call(self, host: Backend):
        host.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +pids")
        call = host.root.create("call")
        call.write(files.MEMORY_SWAP_MAX, "0")
        return call

    def test_current_and_peak(self, host: Backend, call) -> None:
        pid = host.spawn(call)
        before_bytes = call.read_int(files.MEMORY_CURRENT)
        assert host.charge(pid, 16 * MIB)
        after_bytes = call.read_int(files.MEMORY_CURRENT)
        assert after_bytes - before_bytes >= 15 * MIB
        assert host.root.read_int(files.MEMORY_CURRENT) >= after_bytes - MIB
        host.end(pid)
        assert eventually(lambda: call.read_int(files.MEMORY_CURRENT) < 15 * MIB)
        assert call.read_int(files.MEMORY_PEAK) >= after_bytes

    def test_max_kills_and_counts_at_the_leaf(self, host: Backend, call) -> None:
        other = host.root.create("other")
        spared = host.spawn(other)
        call.write(files.MEMORY_OOM_GROUP, "1")
        call.write(files.MEMORY_MAX, "64M")
        pids = [host.spawn(call), host.spawn(call)]
        assert not host.charge(pids[0], 128 * MIB)
        assert eventually(lambda: not any(host.alive(pid) for pid in pids))
        events = call.keyed(files.MEMORY_EVENTS_LOCAL)
        assert events["max"] >= 1
        assert events["oom"] >= 1
        assert events["oom_kill"] >= 2
        assert events["oom_group_kill"] == 1
        assert host.root.keyed(files.MEMORY_EVENTS)["oom_kill"] >= 2
        assert host.root.keyed(files.MEMORY_EVENTS_LOCAL)["oom"] == 0
        assert host.alive(spared)

    def test_without_oom_group_one_dies(self, host: Backend, call) -> None:
        call.write(files.MEMORY_MAX, "64M")
        small, large = host.spawn(call), host.spawn(call)
        assert not host.charge(large, 128 * MIB)
        assert eventually(lambda: not host.alive(large))
        assert host.alive(small)
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom_group_kill"] == 0

    def test_limit_above_names_its_level(self, host: Backend, call) -> None:
        host.root.write(files.MEMORY_MAX, "64M")
        host.root.write(files.MEMORY_SWAP_MAX, "0")
        pid = host.spawn(call)
        assert not host.charge(pid, 128 * MIB)
        assert host.root.keyed(files.MEMORY_EVENTS_LOCAL)["oom"] >= 1
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom"] == 0
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom_kill"] == 1

    def test_max_below_usage_kills(self, host: Backend, call) -> None:
        pid = host.spawn(call)
        assert host.charge(pid, 32 * MIB)
        call.write(files.MEMORY_MAX, "1M")
        assert eventually(lambda: not host.alive(pid))

    def test_high_counts_and_spares(self, host: Backend, call) -> None:
        pid = host.spawn(call)
        call.write(files.MEMORY_HIGH, "16M")
        assert host.charge(pid, 17 * MIB)
        assert host.alive(pid)
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["high"] >= 1
        assert call.keyed(files.MEMORY_EVENTS_LOCAL)["oom_kill"] == 0

    def test_charges_stay_when_a_process_moves(self, host: Backend, call) -> None:
        pid = host.spawn(call)
        assert host.charge(pid, 16 * MIB)
        other = host.root.create("other")
        other.move(pid)
        assert call.read_int(files.MEMORY_CURRENT) >= 15 * MIB
        assert other.read_int(files.MEMORY_CURRENT) < 4 * MIB

    def test_pids_peak(self, host: Backend, call) -> None:
        for pid in [host.spawn(call), host.spawn(call)]:
            host.end(pid)
        assert eventually(lambda: call.read_int(files.PIDS_CURRENT) == 0)
        assert int(call.read(files.PIDS_PEAK)) >= 2


class TestAttributes:
    def test_round_trip(self, host: Backend) -> None:
        name = "trusted.agentcgroup.key"
        assert host.root.get_xattr(name) is None
        host.root.set_xattr(name, b"\x00value")
        assert host.root.get_xattr(name) == b"\x00value"
        assert name in host.root.list_xattrs()
        host.root.set_xattr(name, b"")
        assert host.root.get_xattr(name) == b""
        assert host.root.remove_xattr(name) is True
        assert host.root.remove_xattr(name) is False

    def test_belongs_to_the_directory(self, host: Backend) -> None:
        call = host.root.create("call")
        call.set_xattr("user.x", b"1")
        call.remove()
        assert host.root.create("call").get_xattr("user.x") is None

    def test_name_needs_a_namespace(self, host: Backend) -> None:
        with pytest.raises(OSError):
            host.root.set_xattr("plain", b"1")
