# SPDX-License-Identifier: Apache-2.0
"""The BTF reader, on a table written by hand from the format's description."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from agentcgroup.bpf.btf import Btf, Kind, Member
from agentcgroup.errors import NotSupportedError


class BtfWriter:
    """Just enough of the format; type ids start at 1."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self.strings)
        self.strings += text.encode() + b"\0"
        return offset

    def add(
        self,
        kind: int,
        name: str,
        last: int,
        extra: bytes = b"",
        count: int = 0,
        flag: bool = False,
    ) -> int:
        info = flag << 31 | kind << 24 | count
        self.types += struct.pack("=III", self.name(name), info, last) + extra
        self.count += 1
        return self.count

    def integer(self, name: str, size: int) -> int:
        return self.add(Kind.INT, name, size, struct.pack("=I", size * 8))

    def struct(
        self, name: str, size: int, members: list[tuple[str, int, int]], flag: bool = False
    ) -> int:
        extra = b"".join(struct.pack("=III", self.name(n), t, o) for n, t, o in members)
        return self.add(Kind.STRUCT, name, size, extra, len(members), flag)

    def proto(self, result: int, parameters: list[int]) -> int:
        extra = b"".join(struct.pack("=II", 0, t) for t in parameters)
        return self.add(Kind.FUNC_PROTO, "", result, extra, len(parameters))

    def done(self) -> bytes:
        head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types),
                           len(self.strings))  # fmt: skip
        return head + self.types + self.strings


@pytest.fixture
def btf() -> Iterator[Btf]:
    w = BtfWriter()
    u32 = w.integer("unsigned int", 4)
    u64 = w.integer("long unsigned int", 8)
    gfp = w.add(Kind.TYPEDEF, "gfp_t", u32)
    memcg = w.add(Kind.FWD, "mem_cgroup", 0)
    memcg_pointer = w.add(Kind.PTR, "", memcg)
    const_memcg = w.add(Kind.CONST, "", memcg)
    const_pointer = w.add(Kind.PTR, "", const_memcg)
    pointer_pointer = w.add(Kind.PTR, "", const_pointer)
    event = w.add(
        Kind.ENUM, "event", 4, struct.pack("=IIII", w.name("LOW"), 0, w.name("MAX"), 7), 2
    )
    void_pointer = w.add(Kind.PTR, "", 0)
    charge = w.proto(u32, [memcg_pointer, gfp, u64, event])
    w.add(Kind.FUNC, "try_charge", charge)
    trace = w.proto(0, [void_pointer, const_pointer, pointer_pointer])
    trace_pointer = w.add(Kind.PTR, "", trace)
    w.add(Kind.TYPEDEF, "btf_trace_victim", trace_pointer)
    array = w.add(Kind.ARRAY, "", 0, struct.pack("=III", u32, u32, 5))
    inner = w.struct("", 16, [("x", u64, 0), ("y", gfp, 64)])
    outer = w.struct("outer", 64, [("a", u32, 0), ("", inner, 64), ("list", array, 192)])
    bits = w.struct("bits", 8, [("flag", u32, 1 << 24), ("whole", u32, 32)], flag=True)
    assert (outer, bits) == (18, 19)
    variable = w.add(Kind.VAR, "gap_ns", u64, struct.pack("=I", 1))
    w.add(Kind.DATASEC, ".rodata", 16, struct.pack("=III", variable, 8, 8), 1)
    table = Btf.from_bytes(w.done())
    yield table
    table.close()


def test_function_parameters_read_as_c(btf: Btf) -> None:
    assert btf.function_parameters("try_charge") == (
        "struct mem_cgroup *", "gfp_t", "long unsigned int", "enum event",
    )  # fmt: skip
    assert btf.function_parameters("nothing") is None


def test_tracepoint_parameters_lose_the_private_pointer_and_qualifiers(btf: Btf) -> None:
    assert btf.tracepoint_parameters("victim") == ("struct mem_cgroup *", "struct mem_cgroup **")
    assert btf.tracepoint_parameters("nothing") is None


def test_members_of_anonymous_structs_are_the_outer_ones(btf: Btf) -> None:
    found = btf.try_find("outer", Kind.STRUCT)
    assert found is not None
    assert [(m.name, m.offset_bytes, btf.size_of(m.type_id)) for m in btf.members(found)] == [
        ("a", 0, 4), ("x", 8, 8), ("y", 16, 4), ("list", 24, 20),
    ]  # fmt: skip
    assert btf.size_of(found) == 64


def test_bit_fields_are_left_out(btf: Btf) -> None:
    found = btf.try_find("bits", Kind.STRUCT)
    assert found is not None
    assert btf.members(found) == [Member("whole", 4, 1)]


def test_enum_values_and_variables(btf: Btf) -> None:
    found = btf.try_find("event", Kind.ENUM)
    assert found is not None
    assert btf.enum_values(found) == {"LOW": 0, "MAX": 7}
    assert btf.variables(".rodata") == {"gap_ns": (8, 8)}
    assert btf.variables(".data") == {}


def test_rubbish_is_an_error() -> None:
    with pytest.raises(OSError, match="cannot read BTF"):
        Btf.from_bytes(b"rubbish" * 10)


def test_a_kernel_without_btf_is_not_supported(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("agentcgroup.bpf.btf.KERNEL_BTF", tmp_path / "vmlinux")
    monkeypatch.setattr(
        "agentcgroup.bpf.libbpf.LibBpf.check_pointer",
        staticmethod(lambda _pointer, what: (_ for _ in ()).throw(OSError(3, what))),
    )
    with pytest.raises(NotSupportedError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.of_kernel()
