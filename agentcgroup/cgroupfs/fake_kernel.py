# SPDX-License-Identifier: Apache-2.0
"""A cgroup v2 hierarchy in memory: the tree, its processes, and what limits do to them.

Kernel semantics as far as this product leans on them: charges stay where they were
made when a process moves, page cache outlives its process and goes to the parent with
rmdir, an exceeded memory.max reclaims cache and then kills, memory.high only counts
and throttles, freeze and kill act on the subtree. Effects are immediate, time is not
simulated. Deterministic.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import files
from .fake_values import CONTROLLERS, PAGE_BYTES, SETTINGS, memory_size, refusal

__all__ = ["FakeKernel", "FakeProcess", "Node"]

_KILLED = 9


@dataclass(slots=True, eq=False)
class Node:
    """A directory. `memory_by_pid_bytes` is anonymous memory, `file_bytes` page cache."""

    id: int
    name: str
    parent: Node | None
    linked: bool = True
    children: dict[str, Node] = field(default_factory=dict)
    subtree_control: set[str] = field(default_factory=set)
    settings: dict[str, str] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)
    memory_by_pid_bytes: Counter[int] = field(default_factory=Counter)
    file_bytes: int = 0
    memory_peak_bytes: int = 0
    pids_peak: int = 0
    pids_max_hits: int = 0
    cpu_usage_us: int = 0
    local_events: Counter[str] = field(default_factory=Counter)

    def controllers(self) -> set[str]:
        return set(CONTROLLERS) if self.parent is None else self.parent.subtree_control

    def ancestors(self) -> Iterator[Node]:
        """Itself first, the root last."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def subtree(self) -> Iterator[Node]:
        """Itself first, parents before children."""
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def setting(self, file: str) -> str:
        for table in SETTINGS.values():
            if file in table:
                return self.settings.get(file, table[file][0])
        raise KeyError(file)

    def limit_bytes(self, file: str) -> int | None:
        """None where there is no such limit, for want of the controller too."""
        if "memory" not in self.controllers() or self.parent is None:
            return None
        return memory_size(self.setting(file))

    def all_pids(self) -> list[int]:
        return [pid for node in self.subtree() for pid in node.pids]

    def usage_bytes(self) -> int:
        return sum(
            node.file_bytes + sum(node.memory_by_pid_bytes.values()) for node in self.subtree()
        )

    def freezing(self) -> bool:
        return any(node.setting(files.CGROUP_FREEZE) == "1" for node in self.ancestors())

    def events(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in self.subtree():
            total.update(node.local_events)
        return total


@dataclass(slots=True, eq=False)
class FakeProcess:
    """`throttled`: it went over a memory.high that has not been raised since."""

    pid: int
    node: Node
    command: str
    alive: bool = True
    signal: int | None = None
    throttled: bool = False

    @property
    def frozen(self) -> bool:
        return self.alive and self.node.freezing()


class FakeKernel:
    """Owns the tree. Tests make processes do things here and look through FakeCgroup."""

    def __init__(self) -> None:
        self.processes: dict[int, FakeProcess] = {}
        self._next_pid = 1000
        self._next_id = 1
        self.root = self.add_node("", None)

    # --- processes

    def spawn(self, node: Node, command: str = "work", memory_bytes: int = 0) -> int:
        """A new process in `node`; EAGAIN if a pids.max is exhausted."""
        for above in node.ancestors():
            if above.parent is None or "pids" not in above.controllers():
                continue
            limit = above.setting(files.PIDS_MAX)
            if limit != files.MAX and len(above.all_pids()) >= int(limit):
                above.pids_max_hits += 1
                raise refusal(errno.EAGAIN)
        pid = self._next_pid
        self._next_pid += 1
        self.processes[pid] = FakeProcess(pid, node, command)
        self._enter(node, pid)
        if memory_bytes:
            self.charge(pid, memory_bytes)
        return pid

    def exit(self, pid: int, signal: int | None = None) -> None:
        """The process ends and its anonymous memory is uncharged wherever it was charged."""
        process = self.processes[pid]
        if not process.alive:
            return
        process.alive = False
        process.signal = signal
        process.node.pids.remove(pid)
        for node in self.root.subtree():
            node.memory_by_pid_bytes.pop(pid, None)

    def run(self, pid: int, cpu_us: int) -> bool:
        """Use the CPU; False if the process is dead or frozen."""
        process = self.processes[pid]
        if not process.alive or process.frozen:
            return False
        process.node.cpu_usage_us += cpu_us
        return True

    def charge(self, pid: int, size_bytes: int, *, cache: bool = False) -> bool:
        """Touch memory (or fill page cache); False if the process died of it or is frozen."""
        process = self.processes[pid]
        if not process.alive or process.frozen:
            return False
        pages_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        for node in process.node.ancestors():
            if not self._make_room(node, pages_bytes, process):
                return False
        if cache:
            process.node.file_bytes += pages_bytes
        else:
            process.node.memory_by_pid_bytes[pid] += pages_bytes
        for node in process.node.ancestors():
            node.memory_peak_bytes = max(node.memory_peak_bytes, node.usage_bytes())
        for node in process.node.ancestors():
            high_bytes = node.limit_bytes(files.MEMORY_HIGH)
            if high_bytes is not None and node.usage_bytes() > high_bytes:
                node.local_events["high"] += 1
                self.reclaim(node, node.usage_bytes() - high_bytes)
                process.throttled = node.usage_bytes() > high_bytes
        return True

    def uncharge(self, pid: int, size_bytes: int) -> None:
        """The process gives memory back, from where it is now."""
        held = self.processes[pid].node.memory_by_pid_bytes
        held[pid] = max(0, held[pid] - size_bytes)

    def kill_subtree(self, node: Node) -> None:
        for pid in node.all_pids():
            self.exit(pid, _KILLED)

    def migrate(self, process: FakeProcess, node: Node) -> None:
        process.node.pids.remove(process.pid)
        process.node = node
        self._enter(node, process.pid)

    # --- memory

    def reclaim(self, node: Node, size_bytes: int) -> int:
        """Drop page cache of the subtree; bytes dropped. There is no swap."""
        dropped = 0
        for below in node.subtree():
            part = min(below.file_bytes, size_bytes - dropped)
            if part > 0:
                below.file_bytes -= part
                dropped += part
        return dropped

    def shrink_to_max(self, node: Node) -> None:
        """What a write to memory.max does below usage: reclaim, then kill until it fits."""
        limit = node.limit_bytes(files.MEMORY_MAX)
        if limit is None:
            return
        self.reclaim(node, max(0, node.usage_bytes() - limit))
        while node.usage_bytes() > limit and node.all_pids():
            self._oom(node)

    def unthrottle(self, node: Node) -> None:
        for pid in node.all_pids():
            self.processes[pid].throttled = False

    def _make_room(self, node: Node, size_bytes: int, process: FakeProcess) -> bool:
        limit = node.limit_bytes(files.MEMORY_MAX)
        if limit is None or node.usage_bytes() + size_bytes <= limit:
            return process.alive
        node.local_events["max"] += 1
        self.reclaim(node, node.usage_bytes() + size_bytes - limit)
        while process.alive and node.usage_bytes() + size_bytes > limit:
            self._oom(node)
        return process.alive

    def _oom(self, node: Node) -> None:
        """Kill the largest process below `node`, or the topmost oom.group around it."""
        node.local_events["oom"] += 1
        victim = self.processes[
            max(node.all_pids(), key=lambda pid: (self._rss_bytes(node, pid), pid))
        ]
        group = None
        for above in victim.node.ancestors():
            if above.parent is not None and above.setting(files.MEMORY_OOM_GROUP) == "1":
                group = above
            if above is node:
                break
        victim.node.local_events["oom_kill"] += 1
        if group is None:
            self.exit(victim.pid, _KILLED)
            return
        # The victim is counted again as a member of its group, as the kernel does.
        group.local_events["oom_group_kill"] += 1
        for pid in group.all_pids():
            self.processes[pid].node.local_events["oom_kill"] += 1
            self.exit(pid, _KILLED)

    def _rss_bytes(self, node: Node, pid: int) -> int:
        return sum(below.memory_by_pid_bytes[pid] for below in node.subtree())

    # --- directories

    def add_node(self, name: str, parent: Node | None) -> Node:
        node = Node(self._next_id, name, parent)
        self._next_id += 1
        if parent is not None:
            parent.children[name] = node
        return node

    def unlink(self, node: Node) -> None:
        """rmdir of an empty node: what is left of its charges goes to the parent."""
        parent = node.parent
        if parent is None or node.children or node.pids:
            raise refusal(errno.EBUSY)
        del parent.children[node.name]
        node.linked = False
        parent.file_bytes += node.file_bytes
        parent.cpu_usage_us += node.cpu_usage_us
        parent.memory_by_pid_bytes.update(node.memory_by_pid_bytes)
        node.file_bytes = 0
        node.memory_by_pid_bytes.clear()

    def _enter(self, node: Node, pid: int) -> None:
        node.pids.append(pid)
        for above in node.ancestors():
            above.pids_peak = max(above.pids_peak, len(above.all_pids()))
