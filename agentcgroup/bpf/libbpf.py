# SPDX-License-Identifier: Apache-2.0
"""The one place with ctypes: libbpf.so.1, function by function, nothing clever.

Works with libbpf 1.1 (Debian 12) and newer. Pointers are plain integers. libbpf's messages
are collected per thread instead of going to stderr; `collected_log` hands them out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..errors import NotSupportedError

__all__ = ["LibBpf", "RingCallback", "collected_log", "load_libbpf"]

_POINTER = ctypes.c_void_p
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, _POINTER)
_RING = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_size_t)
_WARN_LEVEL = 0
_LOG_LINE_BYTES = 1 << 16

RingCallback = Callable[[bytes], None]

# name: (result, arguments); everything here has been in libbpf since 1.0
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_set_print": (_POINTER, (_PRINT,)),
    "libbpf_version_string": (ctypes.c_char_p, ()),
    "bpf_object__open_mem": (_POINTER, (ctypes.c_char_p, ctypes.c_size_t, _POINTER)),
    "bpf_object__load": (ctypes.c_int, (_POINTER,)),
    "bpf_object__close": (None, (_POINTER,)),
    "bpf_object__btf": (_POINTER, (_POINTER,)),
    "bpf_object__next_program": (_POINTER, (_POINTER, _POINTER)),
    "bpf_object__find_map_by_name": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "bpf_object__next_map": (_POINTER, (_POINTER, _POINTER)),
    "bpf_map__name": (ctypes.c_char_p, (_POINTER,)),
    "bpf_map__fd": (ctypes.c_int, (_POINTER,)),
    "bpf_map__value_size": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__set_max_entries": (ctypes.c_int, (_POINTER, ctypes.c_uint32)),
    "bpf_map__initial_value": (_POINTER, (_POINTER, ctypes.POINTER(ctypes.c_size_t))),
    "bpf_map__set_autocreate": (ctypes.c_int, (_POINTER, ctypes.c_bool)),
    "bpf_map__attach_struct_ops": (_POINTER, (_POINTER,)),
    "bpf_program__name": (ctypes.c_char_p, (_POINTER,)),
    "bpf_program__fd": (ctypes.c_int, (_POINTER,)),
    "bpf_program__set_autoload": (ctypes.c_int, (_POINTER, ctypes.c_bool)),
    "bpf_program__attach": (_POINTER, (_POINTER,)),
    "bpf_link__fd": (ctypes.c_int, (_POINTER,)),
    "bpf_link__destroy": (ctypes.c_int, (_POINTER,)),
    "bpf_map_create": (
        ctypes.c_int,
        (
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_uint32,
            ctypes.c_uint32,
            ctypes.c_uint32,
            _POINTER,
        ),
    ),
    "bpf_map_update_elem": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64),
    ),
    "bpf_map_lookup_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)),
    "bpf_map_delete_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p)),
    "bpf_map_get_next_key": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)),
    "bpf_link_detach": (ctypes.c_int, (ctypes.c_int,)),
    "bpf_obj_pin": (ctypes.c_int, (ctypes.c_int, ctypes.c_char_p)),
    "bpf_obj_get": (ctypes.c_int, (ctypes.c_char_p,)),
    "bpf_obj_get_info_by_fd": (
        ctypes.c_int,
        (ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32)),
    ),
    "ring_buffer__new": (_POINTER, (ctypes.c_int, _RING, _POINTER, _POINTER)),
    "ring_buffer__add": (ctypes.c_int, (_POINTER, ctypes.c_int, _RING, _POINTER)),
    "ring_buffer__epoll_fd": (ctypes.c_int, (_POINTER,)),
    "ring_buffer__consume": (ctypes.c_int, (_POINTER,)),
    "ring_buffer__free": (None, (_POINTER,)),
    "btf__new": (_POINTER, (ctypes.c_char_p, ctypes.c_uint32)),
    "btf__load_vmlinux_btf": (_POINTER, ()),
    "btf__load_module_btf": (_POINTER, (ctypes.c_char_p, _POINTER)),
    "btf__free": (None, (_POINTER,)),
    "btf__find_by_name_kind": (ctypes.c_int32, (_POINTER, ctypes.c_char_p, ctypes.c_uint32)),
    "btf__type_by_id": (_POINTER, (_POINTER, ctypes.c_uint32)),
    "btf__name_by_offset": (ctypes.c_char_p, (_POINTER, ctypes.c_uint32)),
}


class LibBpf:
    """libbpf's functions as attributes; `check` and `check_pointer` turn failures into OSError."""

    def __init__(self, name: str = "libbpf.so.1") -> None:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            raise NotSupportedError(f"cannot load {name}: {error}: install libbpf1") from None
        self._functions: dict[str, Any] = {}
        for symbol, (result, arguments) in _PROTOTYPES.items():
            try:
                function = getattr(library, symbol)
            except AttributeError:
                raise NotSupportedError(
                    f"{name} has no {symbol}: install libbpf 1.1 or newer"
                ) from None
            function.restype, function.argtypes = result, arguments
            self._functions[symbol] = function
        self.version: str = self._functions["libbpf_version_string"]().decode()
        self._functions["libbpf_set_print"](_print_callback)

    def __getattr__(self, symbol: str) -> Any:
        try:
            return self._functions[symbol]
        except KeyError:
            raise AttributeError(symbol) from None

    @staticmethod
    def check(result: int, what: str) -> int:
        """`result` unless it is a negative errno."""
        if result < 0:
            raise OSError(-result, f"{what}: {os.strerror(-result)}")
        return result

    @staticmethod
    def check_pointer(pointer: int | None, what: str) -> int:
        """`pointer` unless it is NULL; libbpf then left the reason in errno."""
        if not pointer:
            number = ctypes.get_errno() or errno.EINVAL
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return pointer

    def open_memory(self, image: bytes) -> int:
        return self.check_pointer(
            self.bpf_object__open_mem(image, len(image), None), "cannot open BPF object"
        )

    def initial_value(self, bpf_map: int) -> Any:
        """The writable initial contents of a global-data map, as a ctypes byte array."""
        size = ctypes.c_size_t()
        address = self.check_pointer(
            self.bpf_map__initial_value(bpf_map, ctypes.byref(size)), "cannot reach global data"
        )
        return (ctypes.c_char * size.value).from_address(address)

    def lookup(self, map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
        value = ctypes.create_string_buffer(value_bytes)
        if self.bpf_map_lookup_elem(map_fd, key, value) < 0:
            return None
        return value.raw

    def keys(self, map_fd: int, key_bytes: int) -> list[bytes]:
        """Of a hash map; one that changes meanwhile may be listed in part."""
        found: list[bytes] = []
        key = ctypes.create_string_buffer(key_bytes)
        while not self.bpf_map_get_next_key(map_fd, found[-1] if found else None, key):
            found.append(key.raw)
        return found

    def program_info(self, program_fd: int, size_bytes: int) -> bytes:
        info = ctypes.create_string_buffer(size_bytes)
        size = ctypes.c_uint32(size_bytes)
        self.check(
            self.bpf_obj_get_info_by_fd(program_fd, info, ctypes.byref(size)), "program info"
        )
        return info.raw

    def ring_callback(self, callback: RingCallback) -> Any:
        """A C function that hands each record to `callback`; keep it as long as the ring."""

        def trampoline(_context: int, data: int, size: int) -> int:
            callback(ctypes.string_at(data, size))
            return 0

        return _RING(trampoline)

    def mount_bpffs(self, where: str) -> None:
        """For root alone, as systemd does. Raises OSError."""
        if _libc.mount(b"bpf", where.encode(), b"bpf", ctypes.c_ulong(0), b"mode=0700"):
            number = ctypes.get_errno()
            raise OSError(number, f"cannot mount {where}: {os.strerror(number)}")

    @staticmethod
    def bytes_at(address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)


@cache
def load_libbpf() -> LibBpf:
    """The process's libbpf. Raises NotSupportedError with what to install."""
    return LibBpf()


_state = threading.local()


@contextmanager
def collected_log() -> Iterator[list[str]]:
    """Collect what libbpf says in this thread meanwhile, line by line."""
    lines: list[str] = []
    before = getattr(_state, "lines", None)
    _state.lines = lines
    try:
        yield lines
    finally:
        _state.lines = before


def _print(level: int, template: bytes, arguments: int) -> int:
    lines = getattr(_state, "lines", None)
    if level != _WARN_LEVEL or lines is None:
        return 0
    buffer = ctypes.create_string_buffer(_LOG_LINE_BYTES)
    _libc.vsnprintf(buffer, ctypes.c_size_t(_LOG_LINE_BYTES), template, _POINTER(arguments))
    lines += buffer.value.decode(errors="replace").splitlines()
    return 0


_libc = ctypes.CDLL(None, use_errno=True)
_print_callback = _PRINT(_print)  # libbpf keeps only the C pointer
