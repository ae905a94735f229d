# SPDX-License-Identifier: Apache-2.0
"""BTF, the kernel's and an object's own description of its types.

libbpf keeps and searches the table; this reads single types out of it. Ids are only valid
with the table they came from; 0 is void.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import InconclusiveError, NotSupportedError
from .libbpf import LibBpf, load_libbpf

__all__ = ["Btf", "Kind", "Member"]


class Kind:
    """BTF_KIND_* of the kernel's BTF format."""

    INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
    VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = range(9, 16)
    FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(16, 20)


KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

_HEADER = struct.Struct("=III")
_PAIR = struct.Struct("=II")
_TRIPLE = struct.Struct("=III")
_MODIFIERS = {Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}
_POINTER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union; those of anonymous ones are listed as the outer's own."""

    name: str
    offset_bytes: int
    type_id: int


@dataclass(frozen=True, slots=True)
class _Type:
    address: int
    name_offset: int
    kind: int
    count: int
    is_bitfield: bool
    size_or_type: int


class Btf:
    """One BTF table. `close` it unless it belongs to an object."""

    def __init__(self, library: LibBpf, table: int, *, owned: bool) -> None:
        self._lib = library
        self._table = table
        self._owned = owned

    @classmethod
    def of_kernel(cls) -> Btf:
        """The running kernel's. Raises NotSupportedError if it has none."""
        library = load_libbpf()
        try:
            table = library.check_pointer(library.btf__load_vmlinux_btf(), "kernel BTF")
        except OSError as error:
            if KERNEL_BTF.exists():
                raise InconclusiveError(f"cannot read {KERNEL_BTF}: {error.strerror}") from None
            raise NotSupportedError(
                f"the kernel has no BTF ({KERNEL_BTF}): CONFIG_DEBUG_INFO_BTF is off"
            ) from None
        return cls(library, table, owned=True)

    @classmethod
    def of_module(cls, name: str, kernel: Btf) -> Btf:
        """A loaded module's, on top of the kernel's, which must stay open as long.

        Raises OSError if it has none or went meanwhile.
        """
        library = load_libbpf()
        table = library.check_pointer(
            library.btf__load_module_btf(name.encode(), kernel._table), f"BTF of module {name}"
        )
        return cls(library, table, owned=True)

    @classmethod
    def of_object(cls, bpf_object: int) -> Btf:
        library = load_libbpf()
        table = library.check_pointer(library.bpf_object__btf(bpf_object), "object has no BTF")
        return cls(library, table, owned=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Btf:
        """A table in its raw form. Raises OSError if libbpf can't make sense of it."""
        library = load_libbpf()
        table = library.check_pointer(library.btf__new(data, len(data)), "cannot read BTF")
        return cls(library, table, owned=True)

    def close(self) -> None:
        if self._owned and self._table:
            self._lib.btf__free(self._table)
        self._table = 0

    def try_find(self, name: str, kind: int) -> int | None:
        found: int = self._lib.btf__find_by_name_kind(self._table, name.encode(), kind)
        return found if found > 0 else None

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        """Types of a function's parameters as C writes them, None if there is no such function."""
        found = self.try_find(name, Kind.FUNC)
        return None if found is None else self._parameters(self._type(found).size_or_type)

    def tracepoint_parameters(self, name: str) -> tuple[str, ...] | None:
        """The same for a tracepoint, without the leading private pointer."""
        found = self.try_find(f"btf_trace_{name}", Kind.TYPEDEF)
        if found is None:
            return None
        pointer = self._type(self._type(found).size_or_type)
        return self._parameters(pointer.size_or_type)[1:]

    def callback_parameters(self, member: Member) -> tuple[str, ...] | None:
        """Types of the parameters of a function pointer in a struct, None if it is none."""
        pointer = self._type(self.resolve(member.type_id))
        if pointer.kind != Kind.PTR:
            return None
        target = self.resolve(pointer.size_or_type)
        return self._parameters(target) if self.kind_of(target) == Kind.FUNC_PROTO else None

    def members(self, type_id: int) -> list[Member]:
        """Members of a struct or union with their offsets; bit fields are left out."""
        record = self._type(self.resolve(type_id))
        found: list[Member] = []
        for index in range(record.count):
            at = record.address + _HEADER.size + index * _TRIPLE.size
            name_offset, member_type, offset = _TRIPLE.unpack(self._bytes(at, _TRIPLE.size))
            if record.is_bitfield:
                if offset >> 24:
                    continue
                offset &= 0xFFFFFF
            name = self._name(name_offset)
            if name:
                found.append(Member(name, offset // 8, member_type))
            elif self._type(self.resolve(member_type)).kind in (Kind.STRUCT, Kind.UNION):
                found += [
                    Member(inner.name, offset // 8 + inner.offset_bytes, inner.type_id)
                    for inner in self.members(member_type)
                ]
        return found

    def enum_values(self, type_id: int) -> dict[str, int]:
        """Names and values of an enum of up to 32 bits."""
        enum = self._type(self.resolve(type_id))
        values: dict[str, int] = {}
        for index in range(enum.count):
            at = enum.address + _HEADER.size + index * _PAIR.size
            name_offset, value = _PAIR.unpack(self._bytes(at, _PAIR.size))
            values[self._name(name_offset)] = value
        return values

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Global variables of a data section: name -> (offset, size) in bytes."""
        found = self.try_find(section, Kind.DATASEC)
        if found is None:
            return {}
        datasec = self._type(found)
        variables = {}
        for index in range(datasec.count):
            at = datasec.address + _HEADER.size + index * _TRIPLE.size
            variable, offset, size = _TRIPLE.unpack(self._bytes(at, _TRIPLE.size))
            variables[self._name(self._type(variable).name_offset)] = (offset, size)
        return variables

    def kind_of(self, type_id: int) -> int:
        return self._type(self.resolve(type_id)).kind

    def size_of(self, type_id: int) -> int:
        """Size in bytes of anything that a struct can hold."""
        resolved = self._type(self.resolve(type_id))
        if resolved.kind == Kind.ARRAY:
            element, _index, count = self._array(resolved)
            return count * self.size_of(element)
        return _POINTER_BYTES if resolved.kind == Kind.PTR else resolved.size_or_type

    def resolve(self, type_id: int) -> int:
        """The id behind typedefs and qualifiers."""
        current = self._type(type_id)
        while current.kind == Kind.TYPEDEF or current.kind in _MODIFIERS:
            type_id = current.size_or_type
            current = self._type(type_id)
        return type_id

    def type_name(self, type_id: int) -> str:
        """A type as C writes it; qualifiers are left out, they differ between releases."""
        if type_id == 0:
            return "void"
        current = self._type(type_id)
        if current.kind in _MODIFIERS:
            return self.type_name(current.size_or_type)
        if current.kind == Kind.PTR:
            target = self.type_name(current.size_or_type)
            return f"{target}*" if target.endswith("*") else f"{target} *"
        name = self._name(current.name_offset)
        words = {
            Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum",
            Kind.FWD: "union" if current.is_bitfield else "struct",
        }  # fmt: skip
        if current.kind in words:
            return f"{words[current.kind]} {name}"
        if current.kind == Kind.FUNC_PROTO:
            return "function"
        return name

    def _parameters(self, proto_id: int) -> tuple[str, ...]:
        proto = self._type(proto_id)
        names = []
        for index in range(proto.count):
            at = proto.address + _HEADER.size + index * _PAIR.size
            _name_offset, parameter_type = _PAIR.unpack(self._bytes(at, _PAIR.size))
            names.append(self.type_name(parameter_type))
        return tuple(names)

    def _array(self, array: _Type) -> tuple[int, int, int]:
        element, index, count = _TRIPLE.unpack(
            self._bytes(array.address + _HEADER.size, _TRIPLE.size)
        )
        return element, index, count

    def _type(self, type_id: int) -> _Type:
        address = self._lib.btf__type_by_id(self._table, type_id)
        if not address:
            raise ValueError(f"BTF has no type {type_id}")
        name_offset, info, size_or_type = _HEADER.unpack(self._bytes(address, _HEADER.size))
        return _Type(
            address, name_offset, info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), size_or_type
        )

    def _name(self, offset: int) -> str:
        name: bytes | None = self._lib.btf__name_by_offset(self._table, offset)
        return (name or b"").decode(errors="replace")

    def _bytes(self, address: int, size: int) -> bytes:
        return self._lib.bytes_at(address, size)
