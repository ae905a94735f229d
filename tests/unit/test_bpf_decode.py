# SPDX-License-Identifier: Apache-2.0
"""Records as C lays them out -> events. The objects are the real ones, compiled here."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compilers import HAVE_CLANG, NEEDS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentcgroup.bpf.btf import Btf, Kind
from agentcgroup.bpf.decode import ABI_VERSION, Decoder, RecordLayout, check_version
from agentcgroup.bpf.objects import BpfLoadError, BpfObject
from agentcgroup.errors import NotSupportedError
from agentcgroup.types.events import (
    BoundaryEvent,
    ExecEvent,
    ExitEvent,
    MemoryEvent,
    OomEvent,
)

BPF = Path(__file__).parents[2] / "bpf"
OBJECTS = ("toolcall.bpf.o", "memory.bpf.o", "boundary.bpf.o")
RECORDS = ("acg_header", "acg_exec_record", "acg_exit_record", "acg_oom_record",
           "acg_memory_record", "acg_boundary_record")  # fmt: skip
PAGE_BYTES = 4096


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HAVE_CLANG:
        pytest.skip(NEEDS)
    output = tmp_path_factory.mktemp("bpf")
    subprocess.run(["make", "-s", "-C", BPF, f"OUTPUT={output}", "objects"], check=True)
    return output


@pytest.fixture(scope="session", params=OBJECTS)
def opened(request: pytest.FixtureRequest, built: Path) -> Iterator[BpfObject]:
    found = BpfObject((built / request.param).read_bytes(), request.param)
    yield found
    found.close()


@pytest.fixture
def decoder(opened: BpfObject) -> Decoder:
    return Decoder(opened.btf, page_bytes=PAGE_BYTES)


def record(btf: Btf, name: str, **values: int | bytes) -> bytes:
    """A record with these members, everything else zero."""
    layout = RecordLayout.from_btf(btf, name)
    blank = layout.read(bytes(layout.format.size))
    return layout.format.pack(*(blank | values).values())


def number(btf: Btf, enum: str, name: str) -> int:
    found = btf.try_find(enum, Kind.ENUM)
    assert found is not None
    return btf.enum_values(found)[name]


def type_number(btf: Btf, name: str) -> int:
    return number(btf, "acg_record_type", name)


def test_layout_is_what_the_c_compiler_says(built: Path, opened: BpfObject, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    expected: list[str] = []
    program = ["#include <stdio.h>", "#include <stddef.h>", "#include <linux/types.h>",
               f'#include "{BPF}/agentcgroup_abi.h"', "int main(void) {"]  # fmt: skip
    for name in RECORDS:
        layout = RecordLayout.from_btf(opened.btf, name)
        found = opened.btf.try_find(name, Kind.STRUCT)
        assert found is not None
        assert layout.format.size == opened.btf.size_of(found)
        program.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        expected.append(f"{name} {layout.format.size}")
        for member in opened.btf.members(found):
            where = f"offsetof(struct {name}, {member.name})"
            program.append(f'printf("{name}.{member.name} %zu\\n", {where});')
            expected.append(f"{name}.{member.name} {member.offset_bytes}")
    program.append("}")
    source = tmp_path / "layout.c"
    source.write_text("\n".join(program))
    subprocess.run([compiler, source, "-o", tmp_path / "layout"], check=True)
    said = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True)
    assert said.stdout.splitlines() == expected


def test_version_of_the_objects(opened: BpfObject) -> None:
    check_version(opened.read_constant("acg_abi_version"))
    with pytest.raises(NotSupportedError, match="reinstall"):
        check_version(ABI_VERSION + 1)


def test_exec(decoder: Decoder, opened: BpfObject) -> None:
    raw = record(
        opened.btf, "acg_exec_record", type=type_number(opened.btf, "ACG_EXEC"), t_ns=5,
        cgroup_id=9, pid=70, ppid=60, argv_len=12, comm=b"pytest", filename=b"/usr/bin/pytest",
        argv=b"pytest\0-x\0a\0left over from another record",
    )  # fmt: skip
    assert decoder.decode(raw) == ExecEvent(
        t_ns=5, pid=70, tgid=70, ppid=60, cgroup_id=9, command="pytest -x a",
        filename="/usr/bin/pytest",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "length", "cut", "command"),
    [
        (b"", 0, 0, "task-name"),
        (b"\0\0", 2, 0, "task-name"),
        (b"a\x1b[31mb\0\xff\0", 10, 0, "a\N{REPLACEMENT CHARACTER}[31mb \N{REPLACEMENT CHARACTER}"),
        ("é".encode() * 96, 192, 1, "é" * 96 + "…"),
        (b"x" * 192, 4_000_000_000, 0, "x" * 192),
    ],
)
def test_command_lines_are_made_printable(
    decoder: Decoder, opened: BpfObject, argv: bytes, length: int, cut: int, command: str
) -> None:
    raw = record(
        opened.btf, "acg_exec_record", type=type_number(opened.btf, "ACG_EXEC"),
        argv_len=length, argv_cut=cut, comm=b"task-name", argv=argv,
    )  # fmt: skip
    event = decoder.decode(raw)
    assert isinstance(event, ExecEvent)
    assert event.command == command


@pytest.mark.parametrize(
    ("status", "code", "signal"), [(0, 0, None), (3 << 8, 3, None), (9, None, 9), (139, None, 11)]
)
def test_exit_statuses(
    decoder: Decoder, opened: BpfObject, status: int, code: int | None, signal: int | None
) -> None:
    kind = type_number(opened.btf, "ACG_EXIT")
    raw = record(opened.btf, "acg_exit_record", type=kind, pid=7, wait_status=status)
    assert decoder.decode(raw) == ExitEvent(
        t_ns=0, pid=7, cgroup_id=0, exit_code=code, signal=signal
    )


def test_oom_victim(decoder: Decoder, opened: BpfObject) -> None:
    raw = record(
        opened.btf, "acg_oom_record", type=type_number(opened.btf, "ACG_OOM_VICTIM"),
        cgroup_id=4, victim_cgroup_id=5, rss_pages=10, pid=7, comm=b"hog",
    )  # fmt: skip
    assert decoder.decode(raw) == OomEvent(
        t_ns=0, cgroup_id=4, victim_pid=7, victim_cgroup_id=5, victim_command="hog",
        victim_rss_bytes=10 * PAGE_BYTES,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["high", "max", "oom", "oom_kill", "reclaim", "charge_failed"])
def test_memory(decoder: Decoder, opened: BpfObject, kind: str) -> None:
    raw = record(
        opened.btf, "acg_memory_record", type=type_number(opened.btf, "ACG_MEMORY"),
        usage_pages=3, high_pages=2, max_pages=((1 << 63) - 1) // PAGE_BYTES,
        kind=number(opened.btf, "acg_memory_kind", f"ACG_MEMORY_{kind.upper()}"),
    )  # fmt: skip
    assert decoder.decode(raw) == MemoryEvent(
        t_ns=0, cgroup_id=0, kind=kind, usage_bytes=3 * PAGE_BYTES, high_bytes=2 * PAGE_BYTES,  # type: ignore[arg-type]
        max_bytes=None,
    )  # fmt: skip


def test_boundary(decoder: Decoder, opened: BpfObject) -> None:
    raw = record(
        opened.btf, "acg_boundary_record",
        type=number(opened.btf, "acg_record_type", "ACG_BOUNDARY"), t_ns=5, cgroup_id=6,
        start_ticks=7, pid=8, ppid=9, shell_pid=0, stopped=1, argv_len=5, argv_cut=0,
        comm=b"sh".ljust(16, b"\0"), filename=b"/bin/sh".ljust(128, b"\0"),
        argv=b"sh\0x\0".ljust(192, b"\0"),
    )  # fmt: skip
    assert decoder.decode(raw) == BoundaryEvent(
        t_ns=5, pid=8, ppid=9, start_ticks=7, cgroup_id=6, command="sh x", filename="/bin/sh",
        stopped=True, shell_pid=None,
    )  # fmt: skip


def test_short_and_unknown_records_are_counted(decoder: Decoder, opened: BpfObject) -> None:
    whole = record(opened.btf, "acg_exit_record", type=type_number(opened.btf, "ACG_EXIT"))
    unknown = record(opened.btf, "acg_exit_record", type=99)
    for raw in (b"", whole[:10], whole[:-1], unknown):
        assert decoder.decode(raw) is None
    assert decoder.malformed == 4
    assert decoder.decode(whole + b"surplus") is not None
    assert decoder.malformed == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.integers(0, 6), rest=st.binary(max_size=400))
@example(kind=4, rest=b"\xff" * 400)
def test_no_record_is_too_strange(decoder: Decoder, kind: int, rest: bytes) -> None:
    raw = rest[:16] + struct.pack("=I", kind) + rest[16:]
    before = decoder.malformed
    event = decoder.decode(raw)
    assert (event is None) == (decoder.malformed == before + 1)


def test_an_object_without_our_records_is_refused() -> None:
    with pytest.raises(BpfLoadError, match=r"cannot open junk\.o"):
        BpfObject(b"\x7fELF junk", "junk.o")


def test_a_line_is_written_as_the_program_reads_it(built: Path) -> None:
    opened = BpfObject((built / "memcg_ops.bpf.o").read_bytes(), "memcg_ops.bpf.o")
    try:
        layout = RecordLayout.from_btf(opened.btf, "acg_line")
        delays = struct.pack("=16I", *range(16))
        fields = {"start_bytes": 5, "stop_bytes": 4, "step_bytes": 3, "protected_bytes": 2,
                  "delay_ms": delays, "delayed": 1}  # fmt: skip
        assert set(layout.names) == set(fields)
        record = layout.write(fields)
        assert len(record) == 104 and layout.read(record) == fields
        assert record == struct.pack("=4Q", 5, 4, 3, 2) + delays + struct.pack("=II", 1, 0)
        check_version(opened.read_constant("acg_abi_version"))
    finally:
        opened.close()
