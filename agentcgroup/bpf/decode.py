# SPDX-License-Identifier: Apache-2.0
"""Bytes from a ring buffer -> events.

Layouts come from the BTF of the very object that writes the records, so there is nothing
to keep in step; a member that this module needs and the object lacks is found when the
object is opened. Command lines and names are untrusted: unprintable characters are replaced.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import NotSupportedError
from ..types.events import (
    BoundaryEvent,
    ExecEvent,
    ExitEvent,
    KernelEvent,
    MemoryEvent,
    MemoryKind,
    OomEvent,
)
from .btf import Btf, Kind

__all__ = ["ABI_VERSION", "Decoder", "RecordLayout", "check_version", "enum_numbers"]

ABI_VERSION = 1

_NUMBER_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_LONG_MAX = (1 << 63) - 1

# record type -> (struct, members that are read)
_RECORDS = {
    "ACG_EXEC": (
        "acg_exec_record",
        ("pid", "ppid", "argv_len", "argv_cut", "comm", "filename", "argv"),
    ),
    "ACG_EXIT": ("acg_exit_record", ("pid", "wait_status")),
    "ACG_OOM_VICTIM": (
        "acg_oom_record",
        ("victim_cgroup_id", "rss_pages", "pid", "argv_len", "argv_cut", "comm", "argv"),
    ),
    "ACG_MEMORY": ("acg_memory_record", ("usage_pages", "high_pages", "max_pages", "kind")),
    "ACG_BOUNDARY": (
        "acg_boundary_record",
        (
            "start_ticks",
            "pid",
            "ppid",
            "shell_pid",
            "stopped",
            "argv_len",
            "argv_cut",
            "comm",
            "filename",
            "argv",
        ),
    ),
}
_HEADER = ("t_ns", "cgroup_id", "type")

# only what MemoryKind knows by the same name
_MEMORY_KIND_PREFIX = "ACG_MEMORY_"

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """How one C struct lies in memory."""

    names: tuple[str, ...]
    format: struct.Struct

    @classmethod
    def from_btf(cls, btf: Btf, name: str) -> RecordLayout:
        """The layout of `struct name`; nested structs are flattened."""
        found = btf.try_find(name, Kind.STRUCT)
        if found is None:
            raise NotSupportedError(f"the BPF object has no struct {name}: rebuild it")
        names: list[str] = []
        form = "="
        at = 0
        for member, offset, type_id in _leaves(btf, found, 0):
            size = btf.size_of(type_id)
            code = _NUMBER_FORMATS.get(size) if btf.kind_of(type_id) != Kind.ARRAY else None
            form += f"{offset - at}x{code or f'{size}s'}"
            names.append(member)
            at = offset + size
        form += f"{btf.size_of(found) - at}x"
        return cls(tuple(names), struct.Struct(form))

    def read(self, record: bytes) -> Fields:
        return dict(zip(self.names, self.format.unpack_from(record), strict=True))

    def write(self, fields: Fields) -> bytes:
        """The record with these fields; every one must be given."""
        return self.format.pack(*(fields[name] for name in self.names))


class Decoder:
    """Turns records of one object into events and counts those it can't read."""

    def __init__(self, btf: Btf, *, page_bytes: int | None = None) -> None:
        self.malformed = 0
        self._page_bytes = page_bytes or os.sysconf("SC_PAGE_SIZE")
        self._unlimited_pages = _LONG_MAX // self._page_bytes
        self._header = RecordLayout.from_btf(btf, "acg_header")
        _require("acg_header", self._header, _HEADER)
        types = enum_numbers(btf, "acg_record_type")
        kinds = enum_numbers(btf, "acg_memory_kind")
        self._kinds = {
            number: MemoryKind(name.removeprefix(_MEMORY_KIND_PREFIX).lower())
            for name, number in kinds.items()
        }
        makers: dict[str, Callable[[Fields], KernelEvent]] = {
            "ACG_EXEC": _exec_event,
            "ACG_EXIT": _exit_event,
            "ACG_OOM_VICTIM": self._oom_event,
            "ACG_MEMORY": self._memory_event,
            "ACG_BOUNDARY": _boundary_event,
        }
        self._readers: dict[int, tuple[RecordLayout, Callable[[Fields], KernelEvent]]] = {}
        for type_name, (struct_name, members) in _RECORDS.items():
            layout = RecordLayout.from_btf(btf, struct_name)
            _require(struct_name, layout, (*_HEADER, *members))
            self._readers[types[type_name]] = (layout, makers[type_name])

    def decode(self, record: bytes) -> KernelEvent | None:
        """The event in `record`; None and one more in `malformed` if there is none."""
        try:
            layout, make = self._readers[self._header.read(record)["type"]]
            return make(layout.read(record))
        except (struct.error, KeyError):
            self.malformed += 1
            return None

    def _oom_event(self, fields: Fields) -> OomEvent:
        return OomEvent(
            t_ns=fields["t_ns"],
            cgroup_id=fields["cgroup_id"],
            victim_pid=fields["pid"],
            victim_cgroup_id=fields["victim_cgroup_id"],
            victim_command=_command(fields),
            victim_rss_bytes=fields["rss_pages"] * self._page_bytes,
        )

    def _memory_event(self, fields: Fields) -> MemoryEvent:
        return MemoryEvent(
            t_ns=fields["t_ns"],
            cgroup_id=fields["cgroup_id"],
            kind=self._kinds[fields["kind"]],
            usage_bytes=fields["usage_pages"] * self._page_bytes,
            high_bytes=self._limit_bytes(fields["high_pages"]),
            max_bytes=self._limit_bytes(fields["max_pages"]),
        )

    def _limit_bytes(self, pages: int) -> int | None:
        """None for a limit that isn't set."""
        return pages * self._page_bytes if pages < self._unlimited_pages else None


def check_version(version: int) -> None:
    """Raise NotSupportedError unless the object writes records of this version."""
    if version != ABI_VERSION:
        raise NotSupportedError(
            f"the BPF object writes records of version {version}, "
            f"this program reads version {ABI_VERSION}: reinstall agentcgroup"
        )


def _exec_event(fields: Fields) -> ExecEvent:
    return ExecEvent(
        t_ns=fields["t_ns"],
        pid=fields["pid"],
        tgid=fields["pid"],
        ppid=fields["ppid"],
        cgroup_id=fields["cgroup_id"],
        command=_command(fields),
        filename=_text(_until_nul(fields["filename"])),
    )


def _boundary_event(fields: Fields) -> BoundaryEvent:
    return BoundaryEvent(
        t_ns=fields["t_ns"],
        pid=fields["pid"],
        ppid=fields["ppid"],
        start_ticks=fields["start_ticks"],
        cgroup_id=fields["cgroup_id"],
        command=_command(fields),
        filename=_text(_until_nul(fields["filename"])),
        stopped=bool(fields["stopped"]),
        shell_pid=fields["shell_pid"] or None,
    )


def _exit_event(fields: Fields) -> ExitEvent:
    status = fields["wait_status"]
    signal = status & 0x7F
    return ExitEvent(
        t_ns=fields["t_ns"],
        pid=fields["pid"],
        cgroup_id=fields["cgroup_id"],
        exit_code=None if signal else status >> 8 & 0xFF,
        signal=signal or None,
    )


def _command(fields: Fields) -> str:
    """The arguments with spaces between them, else the task's name."""
    argv = bytes(fields["argv"])[: fields["argv_len"]]
    if not argv.strip(b"\0"):
        return _text(_until_nul(fields["comm"]))
    line = _text(argv.rstrip(b"\0").replace(b"\0", b" "))
    return f"{line}…" if fields["argv_cut"] else line


def _until_nul(text: bytes) -> bytes:
    return text.split(b"\0", 1)[0]


def _text(raw: bytes) -> str:
    decoded = raw.decode(errors="replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in decoded)


def _leaves(btf: Btf, type_id: int, base: int) -> list[tuple[str, int, int]]:
    leaves: list[tuple[str, int, int]] = []
    for member in btf.members(type_id):
        offset = base + member.offset_bytes
        if btf.kind_of(member.type_id) == Kind.STRUCT:
            leaves += _leaves(btf, member.type_id, offset)
        elif member.name != "pad":
            leaves.append((member.name, offset, member.type_id))
    return leaves


def _require(name: str, layout: RecordLayout, members: tuple[str, ...]) -> None:
    for member in members:
        if member not in layout.names:
            raise NotSupportedError(f"the BPF object's struct {name} has no {member}: rebuild it")


def enum_numbers(btf: Btf, name: str) -> dict[str, int]:
    found = btf.try_find(name, Kind.ENUM)
    if found is None:
        raise NotSupportedError(f"the BPF object has no enum {name}: rebuild it")
    return btf.enum_values(found)
