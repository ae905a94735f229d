# SPDX-License-Identifier: Apache-2.0
"""Control files of the in-memory hierarchy: which exist where, what they say and do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from . import files
from .fake_kernel import FakeKernel, Node
from .fake_values import CONTROLLERS, DOMAIN_CONTROLLERS, SETTINGS, memory_size, refusal

__all__ = ["exists", "read", "write"]


def exists(node: Node, file: str) -> bool:
    if node.parent is None and file in _NOT_ON_ROOT:
        return False
    return file in _CORE or any(
        file in _BY_CONTROLLER[controller] for controller in node.controllers()
    )


def read(node: Node, file: str) -> str:
    """Text without the final newline."""
    reader = _READERS.get(file)
    if reader is not None:
        return reader(node)
    if file in _WRITERS_ONLY:
        raise refusal(errno.EINVAL)
    if file == files.CPU_WEIGHT and node.setting(files.CPU_IDLE) == "1":
        return "1"
    return node.setting(file)


def write(kernel: FakeKernel, node: Node, file: str, text: str) -> None:
    action = _ACTIONS.get(file)
    if action is not None:
        action(kernel, node, text)
        return
    for table in SETTINGS.values():
        if file in table:
            _set(kernel, node, file, table[file][1](text))
            return
    # What the kernel answers to root; others meet the file's mode first.
    raise refusal(errno.EINVAL)


def _set(kernel: FakeKernel, node: Node, file: str, value: str) -> None:
    if file == files.CPU_WEIGHT and node.setting(files.CPU_IDLE) == "1":
        raise refusal(errno.EINVAL)
    if file == files.CPU_IDLE:
        node.settings.pop(files.CPU_WEIGHT, None)
    node.settings[file] = value
    if file == files.MEMORY_MAX:
        kernel.shrink_to_max(node)
    elif file == files.MEMORY_HIGH:
        high_bytes = node.limit_bytes(file)
        if high_bytes is not None:
            kernel.reclaim(node, max(0, node.usage_bytes() - high_bytes))
        if high_bytes is None or node.usage_bytes() <= high_bytes:
            kernel.unthrottle(node)


# --- actions


def _subtree_control(_kernel: FakeKernel, node: Node, text: str) -> None:
    enable: set[str] = set()
    disable: set[str] = set()
    for word in text.split():
        sign, name = word[:1], word[1:]
        if sign not in ("+", "-") or name not in CONTROLLERS:
            raise refusal(errno.EINVAL)
        (enable if sign == "+" else disable).add(name)
    if not enable <= node.controllers():
        raise refusal(errno.ENOENT)
    if any(disable & child.subtree_control for child in node.children.values()):
        raise refusal(errno.EBUSY)
    fresh = enable - node.subtree_control
    if node.parent is not None and node.pids and fresh & DOMAIN_CONTROLLERS:
        raise refusal(errno.EBUSY)
    node.subtree_control |= enable
    node.subtree_control -= disable
    for child in node.children.values():
        for name in disable:
            for file in SETTINGS[name]:
                child.settings.pop(file, None)


def _procs(kernel: FakeKernel, node: Node, text: str) -> None:
    try:
        pid = int(text.strip())
    except ValueError:
        raise refusal(errno.EINVAL) from None
    # The kernel looks the process up before it looks at the destination.
    process = kernel.processes.get(pid)
    if process is None or not process.alive:
        raise refusal(errno.ESRCH)
    if node.parent is not None and node.subtree_control:
        raise refusal(errno.EBUSY)
    kernel.migrate(process, node)


def _kill(kernel: FakeKernel, node: Node, text: str) -> None:
    try:
        value = int(text.strip())
    except ValueError:
        raise refusal(errno.EINVAL) from None
    if value != 1:
        raise refusal(errno.ERANGE)
    kernel.kill_subtree(node)


def _reclaim(kernel: FakeKernel, node: Node, text: str) -> None:
    wanted = memory_size(text.partition(" ")[0])
    if wanted is None:
        raise refusal(errno.EINVAL)
    if kernel.reclaim(node, wanted) < wanted:
        raise refusal(errno.EAGAIN)


_ACTIONS: Final[dict[str, Callable[[FakeKernel, Node, str], None]]] = {
    files.CGROUP_SUBTREE_CONTROL: _subtree_control,
    files.CGROUP_PROCS: _procs,
    files.CGROUP_KILL: _kill,
    files.MEMORY_RECLAIM: _reclaim,
}
_WRITERS_ONLY: Final = frozenset({files.CGROUP_KILL, files.MEMORY_RECLAIM})


# --- readers


def _keyed(**values: int) -> str:
    return "\n".join(f"{key} {value}" for key, value in values.items())


def _memory_events(counts: dict[str, int]) -> str:
    names = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
    return "\n".join(f"{name} {counts.get(name, 0)}" for name in names)


def _cgroup_events(node: Node) -> str:
    return _keyed(populated=int(bool(node.all_pids())), frozen=int(node.freezing()))


def _memory_stat(node: Node) -> str:
    cache_bytes = sum(below.file_bytes for below in node.subtree())
    return _keyed(anon=node.usage_bytes() - cache_bytes, file=cache_bytes, shmem=0)


def _cpu_stat(node: Node) -> str:
    used_us = sum(below.cpu_usage_us for below in node.subtree())
    stat = {"usage_usec": used_us, "user_usec": used_us, "system_usec": 0}
    if "cpu" in node.controllers():
        stat |= {"nr_periods": 0, "nr_throttled": 0, "throttled_usec": 0}
    return _keyed(**stat)


def _pressure(_node: Node) -> str:
    zero = "avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    return f"some {zero}\nfull {zero}"


def _cgroup_stat(node: Node) -> str:
    return _keyed(nr_descendants=sum(1 for _ in node.subtree()) - 1, nr_dying_descendants=0)


def _pids(node: Node) -> str:
    return "\n".join(str(pid) for pid in sorted(node.pids))


_READERS: Final[dict[str, Callable[[Node], str]]] = {
    files.CGROUP_CONTROLLERS: lambda node: " ".join(sorted(node.controllers())),
    files.CGROUP_SUBTREE_CONTROL: lambda node: " ".join(sorted(node.subtree_control)),
    files.CGROUP_EVENTS: _cgroup_events,
    files.CGROUP_PROCS: _pids,
    files.CGROUP_THREADS: _pids,
    files.CGROUP_STAT: _cgroup_stat,
    files.CGROUP_TYPE: lambda _node: "domain",
    files.CPU_PRESSURE: _pressure,
    files.CPU_STAT: _cpu_stat,
    files.IO_PRESSURE: _pressure,
    files.IO_STAT: lambda _node: "",
    files.MEMORY_CURRENT: lambda node: str(node.usage_bytes()),
    files.MEMORY_EVENTS: lambda node: _memory_events(node.events()),
    files.MEMORY_EVENTS_LOCAL: lambda node: _memory_events(node.local_events),
    files.MEMORY_PEAK: lambda node: str(node.memory_peak_bytes),
    files.MEMORY_PRESSURE: _pressure,
    files.MEMORY_STAT: _memory_stat,
    files.MEMORY_SWAP_CURRENT: lambda _node: "0",
    files.MEMORY_SWAP_PEAK: lambda _node: "0",
    files.PIDS_CURRENT: lambda node: str(len(node.all_pids())),
    files.PIDS_EVENTS: lambda node: _keyed(max=node.pids_max_hits),
    files.PIDS_PEAK: lambda node: str(node.pids_peak),
}

_ALL: Final = frozenset(_READERS) | frozenset(_ACTIONS)
_BY_CONTROLLER: Final = {
    controller: frozenset(SETTINGS[controller])
    | {file for file in _ALL if file.startswith(controller + ".")}
    for controller in CONTROLLERS
}
# cpu.stat and the pressure files are there without any controller.
_CORE: Final = (
    frozenset(SETTINGS[""])
    | {file for file in _ALL if file.startswith("cgroup.")}
    | {files.CPU_STAT, files.CPU_PRESSURE, files.IO_PRESSURE, files.MEMORY_PRESSURE}
)
_ON_ROOT: Final = frozenset(
    {
        files.CGROUP_CONTROLLERS,
        files.CGROUP_MAX_DEPTH,
        files.CGROUP_MAX_DESCENDANTS,
        files.CGROUP_PROCS,
        files.CGROUP_STAT,
        files.CGROUP_SUBTREE_CONTROL,
        files.CGROUP_THREADS,
        files.CPU_PRESSURE,
        files.CPU_STAT,
        files.IO_PRESSURE,
        files.IO_STAT,
        files.MEMORY_PRESSURE,
        files.MEMORY_RECLAIM,
        files.MEMORY_STAT,
    }
)
_NOT_ON_ROOT: Final = (_CORE | frozenset().union(*_BY_CONTROLLER.values())) - _ON_ROOT
