# SPDX-License-Identifier: Apache-2.0
"""What the kernel accepts in a control file, and how the file reads afterwards.

One function a format: text written in, text read back out, OSError with the kernel's
errno where it refuses. Checked against the kernel by the contract tests.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Final

from . import files

__all__ = ["CONTROLLERS", "DOMAIN_CONTROLLERS", "SETTINGS", "memory_size", "refusal"]

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MEMPARSE = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)([KkMmGgTtPpEe]?)")
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_COUNTER_MAX_BYTES = ((1 << 63) - 1) // PAGE_BYTES * PAGE_BYTES

Format = Callable[[str], str]


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def memory_size(text: str) -> int | None:
    """Bytes rounded down to pages; None for "max" and for what is too large to count."""
    if text.strip() == files.MAX:
        return None
    match = _MEMPARSE.fullmatch(text.strip())
    if not match:
        raise refusal(errno.EINVAL)
    size = int(match[1], 0 if match[1][:2].lower() == "0x" else 10) << _SHIFT[match[2].lower()]
    size = size // PAGE_BYTES * PAGE_BYTES
    return None if size >= _COUNTER_MAX_BYTES else size


def _memory(text: str) -> str:
    size = memory_size(text)
    return files.MAX if size is None else str(size)


def _integer(text: str) -> int:
    try:
        return int(text.strip(), 0)
    except ValueError:
        raise refusal(errno.EINVAL) from None


def _bounded(low: int, high: int, number: int) -> Format:
    """An integer in a range; outside of it the kernel answers `number`."""

    def parse(text: str) -> str:
        value = _integer(text)
        if not low <= value <= high:
            raise refusal(number)
        return str(value)

    return parse


def _count_or_max(text: str) -> str:
    if text.strip() == files.MAX:
        return files.MAX
    value = _integer(text)
    if value < 0:
        raise refusal(errno.EINVAL)
    return str(value)


def _limit_or_max(text: str) -> str:
    if text.strip() == files.MAX:
        return files.MAX
    value = _integer(text)
    if not 0 <= value < 1 << 31:
        raise refusal(errno.ERANGE)
    return str(value)


def _cpu_max(text: str) -> str:
    """`QUOTA [PERIOD]` in microseconds. A period left out becomes the default one."""
    fields = text.split()
    if not 1 <= len(fields) <= 2:
        raise refusal(errno.EINVAL)
    period_us = _integer(fields[1]) if len(fields) == 2 else 100_000
    if not 1_000 <= period_us <= 1_000_000:
        raise refusal(errno.EINVAL)
    if fields[0] == files.MAX:
        return f"max {period_us}"
    quota_us = _integer(fields[0])
    if quota_us < 1_000:
        raise refusal(errno.EINVAL)
    return f"{quota_us} {period_us}"


def _io_weight(text: str) -> str:
    word = text.strip().removeprefix("default").strip()
    if not word.isdecimal():
        raise refusal(errno.EINVAL)
    if not 1 <= int(word) <= 10_000:
        raise refusal(errno.ERANGE)
    return f"default {int(word)}"


def _io_max(text: str) -> str:
    """`MAJ:MIN key=value…`. The fake has no block devices, so none is ever found."""
    if not re.match(r"\s*\d+:\d+(\s|$)", text):
        raise refusal(errno.EINVAL)
    raise refusal(errno.ENODEV)


_BIT_EINVAL: Final = _bounded(0, 1, errno.EINVAL)
_BIT_ERANGE: Final = _bounded(0, 1, errno.ERANGE)

# Controller ("" = every cgroup has it) -> file -> (as created, format).
SETTINGS: Final[dict[str, dict[str, tuple[str, Format]]]] = {
    "": {
        files.CGROUP_FREEZE: ("0", _BIT_ERANGE),
        files.CGROUP_MAX_DEPTH: (files.MAX, _limit_or_max),
        files.CGROUP_MAX_DESCENDANTS: (files.MAX, _limit_or_max),
    },
    "memory": {
        files.MEMORY_HIGH: (files.MAX, _memory),
        files.MEMORY_LOW: ("0", _memory),
        files.MEMORY_MAX: (files.MAX, _memory),
        files.MEMORY_MIN: ("0", _memory),
        files.MEMORY_OOM_GROUP: ("0", _BIT_EINVAL),
        files.MEMORY_SWAP_MAX: (files.MAX, _memory),
    },
    "cpu": {
        files.CPU_IDLE: ("0", _BIT_EINVAL),
        files.CPU_MAX: ("max 100000", _cpu_max),
        files.CPU_WEIGHT: ("100", _bounded(1, 10_000, errno.ERANGE)),
    },
    "io": {
        files.IO_MAX: ("", _io_max),
        files.IO_WEIGHT: ("default 100", _io_weight),
    },
    "pids": {files.PIDS_MAX: (files.MAX, _count_or_max)},
}

CONTROLLERS: Final = ("cpu", "io", "memory", "pids")
# Those that may not be enabled on a cgroup that holds processes itself.
DOMAIN_CONTROLLERS: Final = frozenset({"io", "memory"})
