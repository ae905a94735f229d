# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells about watched cgroups: exec, exit, OOM victims, memory pressure.

Opening does everything that can fail: it reads the kernel's BTF, chooses programs, loads and
attaches them. What the kernel doesn't offer is in `missing()`, the rest works without it.
Times are CLOCK_MONOTONIC nanoseconds. Not for use by two threads at a time.
"""

from __future__ import annotations

import struct
from types import TracebackType

from ..errors import InvalidValueError, NotSupportedError
from ..types.events import KernelEvent
from .btf import Btf
from .choose import Capability, Choice, choose, gather
from .decode import Decoder, check_version
from .libbpf import RingCallback
from .objects import BpfLoadError, BpfObject, ProgramInfo, load_object
from .ringbuf import RingBuffers
from .tracefs import has_event

__all__ = ["MAX_ROOT_LEVEL", "KernelEvents"]

MAX_ROOT_LEVEL = 31
DEFAULT_GAP_NS = 10_000_000

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_RING = "acg_ring"
# by enum acg_record_type
_DROP_NAMES = {1: "exec", 2: "exit", 3: "oom", 4: "memory"}


class KernelEvents:
    """`open` one, hand `fileno()` to the event loop, `read()` when it is readable."""

    def __init__(
        self, objects: dict[str, BpfObject], choice: Choice, missing: dict[str, str]
    ) -> None:
        """Use `open`. Takes over the loaded and attached `objects`."""
        self._objects = objects
        self._missing = missing
        self._capabilities = [c.name for c in choice.chosen if c.name not in missing]
        self._events: list[KernelEvent] = []
        self._decoders: list[Decoder] = []
        self._roots: dict[int, int] = {}
        rings = []
        for loaded in objects.values():
            decoder = Decoder(loaded.btf)
            self._decoders.append(decoder)
            rings.append((loaded.map_fd(_RING), self._receiver(decoder)))
        self._rings = RingBuffers(rings)

    @classmethod
    def open(
        cls,
        root_cgroup_id: int,
        root_level: int,
        *,
        gap_ns: int = DEFAULT_GAP_NS,
        ring_bytes: int | None = None,
        only: frozenset[str] | None = None,
        muted: frozenset[str] = frozenset(),
        quiet: frozenset[str] = frozenset(),
    ) -> KernelEvents:
        """Watch the cgroup with this id (inode number) at this depth (0: the hierarchy's root).

        `gap_ns`: least time between two memory events of one kind and cgroup. `ring_bytes`:
        size of each ring buffer, a power of two, else as built. `only`: these capabilities.
        `muted`, `quiet`: records by name (exec, exit, oom) that are not sent, or sent without
        making `fileno()` readable: read() finds them when something else does, or on a timer.
        Raises NotSupportedError if the kernel or this installation offers none of it.
        """
        try:
            constants = {"acg_gap_ns": gap_ns, "acg_muted": _bits(muted), "acg_quiet": _bits(quiet)}
            return cls._open(root_cgroup_id, root_level, constants, ring_bytes, only)
        except OSError as error:
            if isinstance(error, NotSupportedError):
                raise
            raise NotSupportedError(f"BPF programs can't be used: {error}") from error

    @classmethod
    def _open(
        cls,
        root_cgroup_id: int,
        root_level: int,
        constants: dict[str, int],
        ring_bytes: int | None,
        only: frozenset[str] | None,
    ) -> KernelEvents:
        kernel = Btf.of_kernel()
        try:
            facts = gather(kernel.function_parameters, kernel.tracepoint_parameters, has_event)
        finally:
            kernel.close()
        choice = choose(facts)
        if only is not None:
            chosen = {c: programs for c, programs in choice.chosen.items() if c.name in only}
            missing = {name: why for name, why in choice.missing.items() if name in only}
            choice = Choice(chosen, missing)
        objects, missing = _load(choice, constants, ring_bytes)
        try:
            if not objects:
                raise NotSupportedError(f"no BPF program can run: {_one_line(missing)}")
            opened = cls(objects, choice, missing)
        except BaseException:
            _close(objects)
            raise
        try:
            opened.add_root(root_cgroup_id, root_level)
        except BaseException:
            opened.close()
            raise
        return opened

    def add_root(self, cgroup_id: int, level: int) -> None:
        """Watch one more subtree, such as an adopted container's."""
        if not 0 <= level <= MAX_ROOT_LEVEL:
            raise InvalidValueError(
                "root_level", level, f"a watched cgroup is at most {MAX_ROOT_LEVEL} levels deep"
            )
        for loaded in self._objects.values():
            loaded.update("acg_roots", _U64.pack(cgroup_id), _U32.pack(1))
        self._roots[cgroup_id] = level
        self._write_levels()

    def remove_root(self, cgroup_id: int) -> None:
        """Watch it no longer. Nothing happens if it wasn't watched."""
        if self._roots.pop(cgroup_id, None) is None:
            return
        for loaded in self._objects.values():
            loaded.delete("acg_roots", _U64.pack(cgroup_id))
        self._write_levels()

    def fileno(self) -> int:
        """Readable when there are events, and for ever once closed."""
        return self._rings.fileno()

    def read(self) -> list[KernelEvent]:
        """All events that are there, oldest first. Never blocks."""
        self._rings.consume()
        # each ring is in order, the two together are not
        events = sorted(self._events, key=lambda event: event.t_ns)
        self._events.clear()
        return events

    def dropped(self) -> dict[str, int]:
        """Events lost so far: by kind those that found the ring full, and malformed records."""
        counts = dict.fromkeys(_DROP_NAMES.values(), 0)
        for loaded in self._objects.values():
            found = loaded.read_u64_array("acg_dropped", max(_DROP_NAMES) + 1)
            for number, name in _DROP_NAMES.items():
                counts[name] += found[number]
        counts["malformed"] = sum(decoder.malformed for decoder in self._decoders)
        return counts

    def programs(self) -> list[str]:
        """Names of the attached programs."""
        return [name for loaded in self._objects.values() for name in loaded.attached]

    def program_info(self) -> dict[str, ProgramInfo]:
        """What the kernel says of each attached program."""
        return {
            name: loaded.info(name) for loaded in self._objects.values() for name in loaded.attached
        }

    def capabilities(self) -> list[str]:
        """What works: of exec, exit, oom, memory, charge_failed."""
        return self._capabilities

    def missing(self) -> dict[str, str]:
        """What doesn't, with the reason."""
        return self._missing

    def close(self) -> None:
        """Detach everything; whoever sleeps on `fileno()` wakes."""
        self._rings.close()
        _close(self._objects)

    def __enter__(self) -> KernelEvents:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write_levels(self) -> None:
        levels = 0
        for level in self._roots.values():
            levels |= 1 << level
        for loaded in self._objects.values():
            loaded.update("acg_levels", _U32.pack(0), _U64.pack(levels))

    def _receiver(self, decoder: Decoder) -> RingCallback:
        def receive(record: bytes) -> None:
            event = decoder.decode(record)
            if event is not None:
                self._events.append(event)

        return receive


def _bits(names: frozenset[str]) -> int:
    return sum(1 << number for number, name in _DROP_NAMES.items() if name in names)


def _load(
    choice: Choice, constants: dict[str, int], ring_bytes: int | None
) -> tuple[dict[str, BpfObject], dict[str, str]]:
    """Load and attach what was chosen: objects by file name, reasons by capability."""

    def configure(opened: BpfObject) -> None:
        check_version(opened.read_constant("acg_abi_version"))
        there = opened.btf.variables(".rodata")
        for name, value in constants.items():
            if name in there:
                opened.set_constant(name, value)
        if ring_bytes is not None:
            opened.set_ring_bytes(_RING, ring_bytes)

    objects: dict[str, BpfObject] = {}
    missing = dict(choice.missing)
    try:
        for object_name in dict.fromkeys(c.object_name for c in choice.chosen):
            programs = dict.fromkeys(p.name for p in choice.programs_of(object_name))
            try:
                loaded, refused = load_object(object_name, programs, configure)
            except NotSupportedError as error:
                loaded, refused = None, dict.fromkeys(programs, str(error))
            if loaded is not None:
                objects[object_name] = loaded
                refused |= _attach(loaded, [p for p in programs if p not in refused])
            missing |= _lost(choice, object_name, refused)
            if loaded is not None and not _detach_useless(loaded, choice, missing):
                objects.pop(object_name).close()
    except BaseException:
        _close(objects)
        raise
    return objects, missing


def _attach(loaded: BpfObject, programs: list[str]) -> dict[str, str]:
    refused = {}
    for program in programs:
        try:
            loaded.attach(program)
        except BpfLoadError as error:
            refused[program] = str(error)
    return refused


def _detach_useless(loaded: BpfObject, choice: Choice, missing: dict[str, str]) -> bool:
    """Half a capability is none: detach its programs. True if anything is left."""
    useful = {p.name for c, programs in choice.chosen.items() if c.name not in missing
              for p in programs}  # fmt: skip
    for program in loaded.attached:
        if program not in useful:
            loaded.detach(program)
    return bool(loaded.attached)


def _lost(choice: Choice, object_name: str, refused: dict[str, str]) -> dict[str, str]:
    """Capabilities of an object that can't work without the refused programs."""

    def reason(capability: Capability) -> str:
        reasons = [refused[p.name] for p in choice.chosen[capability] if p.name in refused]
        return "; ".join(dict.fromkeys(reasons))

    return {
        capability.name: why
        for capability in choice.chosen
        if capability.object_name == object_name and (why := reason(capability))
    }


def _close(objects: dict[str, BpfObject]) -> None:
    for loaded in objects.values():
        loaded.close()


def _one_line(missing: dict[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in missing.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
