# SPDX-License-Identifier: Apache-2.0
"""User half of the exec boundary: whose execs begin tool calls, who was stopped, who is told.

Who stands still is in a map that is pinned, so that somebody else can continue them when this
process is gone. Times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

from ..errors import NotSupportedError
from ..types.events import BoundaryEvent
from ..types.sessions import EVERY_PROGRAM
from .choose import BOUNDARY_OBJECT
from .decode import Decoder, RecordLayout, check_version, enum_numbers
from .libbpf import load_libbpf
from .objects import BpfLoadError, BpfObject, ProgramInfo, load_object
from .pins import Pins, close_all
from .ringbuf import RingBuffers
from .tracefs import has_event

__all__ = ["ExecBoundary", "Own", "Stopped", "probe_boundary"]

_STOPPED_MAP = "acg_stopped_processes"
_STOPPED_PIN = "stopped"
# The guardian knows both names.
_LABELS = ("a", "b")
_NAME_BYTES = 32
_HOST_MOUNTS = Path("/proc/1/ns/mnt")
_U32 = struct.Struct("=I")
_EVENT = "sched/sched_process_exec"
_PERF_PROGRAM, _BTF_PROGRAM = "acg_boundary_perf", "acg_boundary_btf"
_HOOKS = {
    _PERF_PROGRAM: "tracepoint/sched_process_exec",
    _BTF_PROGRAM: "tp_btf/sched_process_exec, which may miss some where tracefs is not mounted",
}


class Own(IntEnum):
    """Processes whose own exec begins no call (enum acg_own_kind)."""

    AGENT = 1
    SHELL = 2
    SHELL_IN_CALL = 3


class _Flag(IntFlag):
    """enum acg_agent_flag"""

    EVERY_PROGRAM = 1
    ENTRANTS = 2


@dataclass(frozen=True, slots=True)
class Stopped:
    """Who stands still since when, and until when at most."""

    pid: int
    start_ticks: int
    stopped_ns: int
    due_ns: int
    cgroup_id: int


class ExecBoundary:
    """`open` one; nobody is stopped before the first `renew`."""

    def __init__(self, loaded: BpfObject, pins: Pins, label: str, patience_ns: int) -> None:
        """Use `open`. Takes over the loaded and attached object."""
        self._object = loaded
        self._pins = pins
        self._label = label
        self._patience_ns = patience_ns
        # A service may have mounts of its own: those of PID 1 are the host's.
        self._host_mounts = _HOST_MOUNTS.stat().st_ino
        btf = loaded.btf
        self._layouts = {
            name: RecordLayout.from_btf(btf, name)
            for name in (
                "acg_agent", "acg_program", "acg_own", "acg_stopped", "acg_boundary_control",
            )
        }  # fmt: skip
        self._verdicts = enum_numbers(btf, "acg_verdict")
        self._count_names = enum_numbers(btf, "acg_boundary_count")
        self._programs: dict[int, list[bytes]] = {}
        self._events: list[BoundaryEvent] = []
        self._decoder = Decoder(btf)
        self._rings = RingBuffers([(loaded.map_fd("acg_ring"), self._receive)])

    @classmethod
    def open(cls, owner: str, patience_ns: int) -> ExecBoundary:
        """Load, attach, pin; whom a predecessor of this `owner` left standing is in `stopped()`.

        `patience_ns`: how long a process stands still if nobody says more. Raises
        NotSupportedError; then nothing of ours is attached.
        """
        try:
            pins = Pins.open(owner)
            loaded = _loaded()
        except NotSupportedError:
            raise
        except OSError as error:
            raise NotSupportedError(f"the exec boundary can't be used: {error}") from error
        try:
            label = _keep(pins, loaded)
            return cls(loaded, pins, label, patience_ns)
        except BaseException as error:
            loaded.close()
            if isinstance(error, OSError) and not isinstance(error, NotSupportedError):
                raise NotSupportedError(f"the exec boundary can't be used: {error}") from error
            raise

    # --- what it is told

    def renew(self, until_ns: int) -> None:
        """Nobody is stopped after this time, unless it is said again."""
        fields = {
            "lease_until_ns": until_ns, "patience_ns": self._patience_ns,
            "host_mounts": self._host_mounts,
        }  # fmt: skip
        self._update("acg_boundary_controls", _U32.pack(0), "acg_boundary_control", fields)

    def add_agent(
        self, cgroup_id: int, programs: Iterable[str], ignored: Iterable[str], *, entrants: bool
    ) -> None:
        """Processes in this very cgroup that become one of `programs` (base names, `*`: any)
        begin calls; `entrants`: and so does whoever comes in from outside. Said again, it
        replaces what was said before. Raises OSError if the kernel takes no more."""
        wanted = list(programs)
        flags = _Flag(0)
        if EVERY_PROGRAM in wanted:
            flags |= _Flag.EVERY_PROGRAM
        if entrants:
            flags |= _Flag.ENTRANTS
        verdicts = {self._key(cgroup_id, name): self._verdicts["ACG_BEGINS"]
                    for name in wanted if name != EVERY_PROGRAM}  # fmt: skip
        verdicts |= {self._key(cgroup_id, n): self._verdicts["ACG_IGNORED"] for n in ignored}
        for key in self._programs.get(cgroup_id, []):
            if key not in verdicts:
                self._object.delete("acg_programs", key)
        self._programs[cgroup_id] = list(verdicts)
        for key, verdict in verdicts.items():
            self._object.update("acg_programs", key, _U32.pack(verdict))
        key = struct.pack("=Q", cgroup_id)
        self._update("acg_agents", key, "acg_agent", {"flags": int(flags)})

    def remove_agent(self, cgroup_id: int) -> None:
        """Its processes begin no calls any more. Nothing happens if there was none."""
        self._object.delete("acg_agents", struct.pack("=Q", cgroup_id))
        for key in self._programs.pop(cgroup_id, []):
            self._object.delete("acg_programs", key)

    def own(self, pid: int, start_ticks: int, kind: Own) -> None:
        """This process begins no call by itself. Raises OSError if the kernel takes no more."""
        fields = {"start_ticks": start_ticks, "kind": int(kind)}
        self._update("acg_own_processes", _U32.pack(pid), "acg_own", fields)

    def disown(self, pid: int) -> None:
        self._object.delete("acg_own_processes", _U32.pack(pid))

    def extend(self, stopped: Stopped, due_ns: int) -> None:
        """It may stand still until then."""
        fields = {
            "start_ticks": stopped.start_ticks, "stopped_ns": stopped.stopped_ns,
            "due_ns": due_ns, "cgroup_id": stopped.cgroup_id,
        }  # fmt: skip
        self._update(_STOPPED_MAP, _U32.pack(stopped.pid), "acg_stopped", fields)

    def forget(self, pid: int) -> None:
        """It was continued, or is gone."""
        self._object.delete(_STOPPED_MAP, _U32.pack(pid))

    # --- what it tells

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._rings.fileno()

    def read(self) -> list[BoundaryEvent]:
        """All events that are there, oldest first. Never blocks."""
        self._rings.consume()
        events, self._events = self._events, []
        return events

    def stopped(self) -> list[Stopped]:
        """Everybody who stands still for the boundary, as far as is known."""
        found = []
        for key in _keys(self._object.map_fd(_STOPPED_MAP)):
            stopped = self.stopped_process(key)
            if stopped is not None:
                found.append(stopped)
        return found

    def stopped_process(self, pid: int) -> Stopped | None:
        layout = self._layouts["acg_stopped"]
        fd = self._object.map_fd(_STOPPED_MAP)
        raw = load_libbpf().lookup(fd, _U32.pack(pid), layout.format.size)
        return None if raw is None else Stopped(pid, **layout.read(raw))

    def counts(self) -> dict[str, int]:
        """enum acg_boundary_count, and `malformed` records."""
        names = {n: v for n, v in self._count_names.items() if n != "ACG_BOUNDARY_COUNTS"}
        values = self._object.read_u64_array("acg_boundary_counts", len(names))
        counts = {name.removeprefix("ACG_").lower(): values[v] for name, v in names.items()}
        return {**counts, "malformed": self._decoder.malformed}

    def programs(self) -> list[str]:
        return self._object.attached

    def program_info(self) -> dict[str, ProgramInfo]:
        """What the kernel says of each attached program."""
        return {name: self._object.info(name) for name in self._object.attached}

    def pin_directory(self) -> Path:
        return self._pins.directory

    def close(self) -> None:
        """Detach; who stands still is not continued by this, and stays noted in the pin."""
        self._rings.close()
        if not _keys(self._object.map_fd(_STOPPED_MAP)):
            self._pins.forget(self._label)
        self._object.close()

    # --- parts

    def _receive(self, record: bytes) -> None:
        event = self._decoder.decode(record)
        if isinstance(event, BoundaryEvent):
            self._events.append(event)

    def _key(self, cgroup_id: int, name: str) -> bytes:
        cut = name.encode()[: _NAME_BYTES - 1]
        return self._layouts["acg_program"].write({"cgroup_id": cgroup_id, "name": cut})

    def _update(self, table: str, key: bytes, record: str, fields: dict[str, Any]) -> None:
        self._object.update(table, key, self._layouts[record].write(fields))


def _loaded() -> BpfObject:
    """With the program attached that misses nothing, else the next best one."""

    def configure(opened: BpfObject) -> None:
        check_version(opened.read_constant("acg_abi_version"))

    reasons: list[str] = []
    for program in _candidates():
        loaded, refused = load_object(BOUNDARY_OBJECT, [program], configure)
        if loaded is None:
            reasons.append(refused[program])
            continue
        try:
            loaded.attach(program)
        except BpfLoadError as error:
            loaded.close()
            reasons.append(str(error))
            continue
        return loaded
    raise NotSupportedError("; ".join(dict.fromkeys(reasons)))


def probe_boundary() -> str:
    """Attach it for a moment, in which it stops nobody: where. Raises NotSupportedError."""
    loaded = _loaded()
    try:
        return _HOOKS[loaded.attached[0]]
    finally:
        loaded.close()


def _candidates() -> list[str]:
    return [_PERF_PROGRAM, _BTF_PROGRAM] if has_event(_EVENT) else [_BTF_PROGRAM]


def _keep(pins: Pins, loaded: BpfObject) -> str:
    """Pin the map of the stopped, with those of a predecessor in it, and only then let its go."""
    before = pins.labels()
    label = next((one for one in _LABELS if one not in before), _LABELS[0])
    if label in before:  # both: somebody died between the two steps below
        _copy_stopped(pins, label, loaded)
        pins.forget(label)
    pins.keep(label, {_STOPPED_PIN: loaded.map_fd(_STOPPED_MAP)})
    for other in before:
        if other != label:
            _copy_stopped(pins, other, loaded)
            pins.forget(other)
    return label


def _copy_stopped(pins: Pins, label: str, loaded: BpfObject) -> None:
    size = loaded.value_bytes(_STOPPED_MAP)
    with contextlib.suppress(OSError):
        fds = pins.find(label)
        try:
            for fd in fds.values():
                for pid in _keys(fd):
                    value = load_libbpf().lookup(fd, _U32.pack(pid), size)
                    if value is not None:
                        loaded.update(_STOPPED_MAP, _U32.pack(pid), value)
        finally:
            close_all(fds)


def _keys(map_fd: int) -> list[int]:
    return [_U32.unpack(key)[0] for key in load_libbpf().keys(map_fd, _U32.size)]
