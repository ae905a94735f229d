# SPDX-License-Identifier: Apache-2.0
"""What every CgroupLike does with processes, memory and attributes, on both hosts."""

from __future__ import annotations

import pytest
from cgroup_backends import Backend, eventually

from agentcgroup.cgroupfs import files
from agentcgroup.units import MIB

pytest_plugins = ["cgroup_host"]


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
