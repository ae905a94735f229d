# SPDX-License-Identifier: Apache-2.0
"""One BPF object from file to attached programs and back: open, configure, load, attach, close.

An object that fails to load because of one program is opened again without it: a function
can be in the kernel's BTF and yet not be traceable. The verifier's log is kept whole in the
error; its text has the lines that tell.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotSupportedError
from ..log import get_logger
from .btf import Btf
from .libbpf import collected_log, load_libbpf

__all__ = ["BpfLoadError", "BpfObject", "ProgramInfo", "hung_up", "load_object", "read_image"]

BUILT = Path(__file__).resolve().parent.parent / "_built"

_FAILED_PROGRAM = re.compile(r"prog '([^']+)': (?:BPF program load failed|failed to |relo )")
_LOG_NOISE = re.compile(
    r"^$|^libbpf: |-- (BEGIN|END) PROG LOAD LOG --|^processed \d+ insns"
    r"|^\d+: (\(|R\d)|^; |^R\d.*=.*R\d"  # instructions, source lines, registers
)
_TELLING_LINES = 2
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
# struct bpf_prog_info of linux/bpf.h
_INFO_BYTES = 224
_INFO_RECURSION_MISSES = 208
_INFO_VERIFIED_INSTRUCTIONS = 216

_log = get_logger(__name__)


class BpfLoadError(NotSupportedError):
    """An object that the kernel refuses. `program` is the one to blame if that is known."""

    def __init__(self, reason: str, *, program: str | None, log: list[str]) -> None:
        self.program = program
        self.log = log
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """verified_instructions: the verifier's work. missed_count: runs skipped by the kernel."""

    verified_instructions: int
    missed_count: int


class BpfObject:
    """Between `open` and `load` it can be configured; `close` detaches and frees everything."""

    def __init__(self, image: bytes, name: str) -> None:
        """Raises OSError if this isn't a BPF object."""
        self.name = name
        self._lib = load_libbpf()
        with collected_log() as lines:
            try:
                self._object = self._lib.open_memory(image)
            except OSError as error:
                raise BpfLoadError(
                    f"cannot open {name}: {_telling(lines, error)}", program=None, log=lines
                ) from None
        self._programs = self._list_programs()
        self._links: dict[str, int] = {}
        self.btf = Btf.of_object(self._object)

    @property
    def program_names(self) -> list[str]:
        return list(self._programs)

    def select(self, programs: Iterable[str]) -> None:
        """Only these will be loaded."""
        wanted = set(programs)
        for name, program in self._programs.items():
            self._lib.check(self._lib.bpf_program__set_autoload(program, name in wanted), name)

    def leave_out(self, map_name: str) -> None:
        """This map will not be made: a table of hooks that the kernel doesn't have."""
        self._lib.check(self._lib.bpf_map__set_autocreate(self._map(map_name), False), map_name)

    def set_ring_bytes(self, map_name: str, size_bytes: int) -> None:
        """A power of two, at least a page; anything else fails at load."""
        self._lib.check(
            self._lib.bpf_map__set_max_entries(self._map(map_name), size_bytes),
            f"cannot resize {map_name}",
        )

    def read_constant(self, variable: str) -> int:
        offset, size = self._constant(variable)
        data = self._lib.initial_value(self._rodata())
        return int.from_bytes(data[offset : offset + size], sys.byteorder)

    def set_constant(self, variable: str, value: int) -> None:
        offset, size = self._constant(variable)
        data = self._lib.initial_value(self._rodata())
        data[offset : offset + size] = value.to_bytes(size, sys.byteorder)

    def load(self) -> None:
        """Raises BpfLoadError with the verifier's last word."""
        with collected_log() as lines:
            result = self._lib.bpf_object__load(self._object)
        if result == 0:
            return
        _log.debug("cannot load %s:\n%s", self.name, "\n".join(lines))
        error = OSError(-result, os.strerror(-result))
        blamed = [match[1] for line in lines if (match := _FAILED_PROGRAM.search(line))]
        raise BpfLoadError(
            _telling(lines, error), program=blamed[-1] if blamed else None, log=lines
        )

    def attach(self, program: str) -> None:
        """Raises BpfLoadError if the kernel refuses."""
        with collected_log() as lines:
            try:
                self._links[program] = self._lib.check_pointer(
                    self._lib.bpf_program__attach(self._programs[program]), "cannot attach"
                )
            except OSError as error:
                raise BpfLoadError(
                    f"cannot attach {program}: {os.strerror(error.errno or 0)}",
                    program=program,
                    log=lines,
                ) from None

    def attach_hooks(self, map_name: str) -> int:
        """Attach a table of struct_ops hooks; its link's descriptor, which hangs up when
        somebody else detaches it. Raises OSError with the kernel's reason."""
        with collected_log():
            link = self._lib.check_pointer(
                self._lib.bpf_map__attach_struct_ops(self._map(map_name)),
                f"cannot attach {map_name}",
            )
        self._links[map_name] = link
        return self.link_fd(map_name)

    def detach(self, name: str) -> None:
        """Undo `attach` or `attach_hooks`."""
        self._lib.bpf_link__destroy(self._links.pop(name))

    def link_fd(self, name: str) -> int:
        """Of what was attached by this name."""
        return self._lib.check(self._lib.bpf_link__fd(self._links[name]), name)

    @property
    def attached(self) -> list[str]:
        return list(self._links)

    def map_fd(self, name: str) -> int:
        return self._lib.check(self._lib.bpf_map__fd(self._map(name)), f"map {name}")

    def value_bytes(self, map_name: str) -> int:
        size: int = self._lib.bpf_map__value_size(self._map(map_name))
        return size

    def update(self, map_name: str, key: bytes, value: bytes) -> None:
        result = self._lib.bpf_map_update_elem(self.map_fd(map_name), key, value, 0)
        self._lib.check(result, f"cannot write {map_name}")

    def delete(self, map_name: str, key: bytes) -> None:
        """Deleting what isn't there is no error."""
        result = self._lib.bpf_map_delete_elem(self.map_fd(map_name), key)
        if result != -errno.ENOENT:
            self._lib.check(result, f"cannot delete from {map_name}")

    def read_u64_array(self, map_name: str, count: int) -> list[int]:
        fd = self.map_fd(map_name)
        raw = [self._lib.lookup(fd, _U32.pack(index), _U64.size) for index in range(count)]
        return [_U64.unpack(value)[0] if value else 0 for value in raw]

    def info(self, program: str) -> ProgramInfo:
        fd = self._lib.check(self._lib.bpf_program__fd(self._programs[program]), program)
        raw = self._lib.program_info(fd, _INFO_BYTES)
        return ProgramInfo(
            verified_instructions=_U32.unpack_from(raw, _INFO_VERIFIED_INSTRUCTIONS)[0],
            missed_count=_U64.unpack_from(raw, _INFO_RECURSION_MISSES)[0],
        )

    def close(self) -> None:
        for program in self.attached:
            self.detach(program)
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = 0
            self._programs = {}

    def _list_programs(self) -> dict[str, int]:
        programs: dict[str, int] = {}
        program = None
        while program := self._lib.bpf_object__next_program(self._object, program):
            programs[self._lib.bpf_program__name(program).decode()] = program
        return programs

    def _map(self, name: str) -> int:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        return self._lib.check_pointer(found, f"{self.name} has no map {name}")

    def _rodata(self) -> int:
        found = None
        while found := self._lib.bpf_object__next_map(self._object, found):
            if self._lib.bpf_map__name(found).endswith(b".rodata"):
                return int(found)
        raise NotSupportedError(f"{self.name} has no constants: rebuild it")

    def _constant(self, variable: str) -> tuple[int, int]:
        try:
            return self.btf.variables(".rodata")[variable]
        except KeyError:
            raise NotSupportedError(f"{self.name} has no constant {variable}: rebuild it") from None


def load_object(
    name: str, programs: Iterable[str], configure: Callable[[BpfObject], None]
) -> tuple[BpfObject | None, dict[str, str]]:
    """Load an object with as many of `programs` as the kernel takes.

    Returns it (None if none is left) and why each other one is not in it.
    """
    image = read_image(name)
    wanted = list(programs)
    refused: dict[str, str] = {}
    while wanted:
        loading = BpfObject(image, name)
        try:
            loading.select(wanted)
            configure(loading)
            loading.load()
        except BpfLoadError as error:
            loading.close()
            if error.program not in wanted:
                return None, refused | dict.fromkeys(wanted, str(error))
            wanted.remove(error.program)
            refused[error.program] = str(error)
        except BaseException:
            loading.close()
            raise
        else:
            return loading, refused
    return None, refused


def hung_up(link_fd: int) -> bool:
    """Somebody else has detached this link."""
    poll = select.poll()
    poll.register(link_fd, select.POLLIN)
    return any(events & select.POLLHUP for _fd, events in poll.poll(0))


def read_image(name: str) -> bytes:
    """A built object's bytes. Raises NotSupportedError with the reason why there is none."""
    try:
        return (BUILT / name).read_bytes()
    except FileNotFoundError:
        raise NotSupportedError(f"{name} is not installed: {_why_not_built()}") from None


def _why_not_built() -> str:
    try:
        report = json.loads((BUILT / "build.json").read_text(encoding="utf-8"))
        return str(report["bpf"])
    except (OSError, ValueError, KeyError):
        return "run `make bpf` in a source tree (needs clang-16 and libbpf-dev)"


def _telling(lines: list[str], error: OSError) -> str:
    """The end of a log in one line."""
    if error.errno == errno.EPERM:
        if os.geteuid() == 0:
            return "the kernel refuses it even to root: lockdown or a security module"
        return "bpf() is not permitted: needs root, or CAP_BPF and CAP_PERFMON"
    told = [line.strip() for line in lines if not _LOG_NOISE.search(line)]
    if not told:
        told = [line.removeprefix("libbpf: ").strip() for line in lines[:1]]
    told.append(os.strerror(error.errno or 0))
    return "; ".join(dict.fromkeys(told[-1 - _TELLING_LINES :]))
