# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations as people write them, converted once at the border.

K/M/G/KiB/MiB/GiB are powers of 1024, KB/MB/GB powers of 1000 (DESIGN: intents).
Inside the product every quantity carries its unit in its name.
"""

from __future__ import annotations

import re

from .errors import InvalidValueError

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "NS_PER_MS",
    "NS_PER_S",
    "format_bytes",
    "parse_cores",
    "parse_duration_s",
    "parse_size_bytes",
]  # fmt: skip

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MAX_SIZE_BYTES = (1 << 63) - 1

# More digits than any size needs would be an error of int() or float() instead of ours.
_NUMBER = re.compile(r"\s*[0-9]{1,30}(?:\.[0-9]{1,30})?\s*")
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*")
_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": KIB, "m": MIB, "g": GIB, "t": 1 << 40,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_SIZE_REMEDY = "write bytes as an integer or a size such as 512M, 2G, 2GiB or 2GB"

_DURATION = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(ms|s|m|h)?\s*")
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_size_bytes(value: int | str, field: str = "size") -> int:
    """Bytes of `value`; raises InvalidValueError naming `field`."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidValueError(field, value, _SIZE_REMEDY)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        unit = _SIZE_UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InvalidValueError(field, value, _SIZE_REMEDY)
        number = match[1]
        size = int(number) * unit if number.isdigit() else int(float(number) * unit)
    else:
        size = value
    if not 0 <= size <= MAX_SIZE_BYTES:
        raise InvalidValueError(field, value, "a size must be between 0 and 8 EiB")
    return size


def parse_cores(value: float | str, field: str = "cpu") -> float:
    """Cores as a positive finite number; raises InvalidValueError naming `field`."""
    remedy = "write cores as a number above 0, such as 0.5 or 2"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidValueError(field, value, remedy)
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise InvalidValueError(field, value, remedy)
    try:
        cores = float(value)
    except OverflowError:
        raise InvalidValueError(field, value, remedy) from None
    if not 0 < cores <= 65536:
        raise InvalidValueError(field, value, remedy)
    return cores


def parse_duration_s(value: float | str, field: str = "duration") -> float:
    """Seconds of `value` (a number, or 90s, 5m, 2h, 250ms)."""
    remedy = "write seconds as a number above 0, or a duration such as 250ms, 90s, 5m or 2h"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidValueError(field, value, remedy)
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise InvalidValueError(field, value, remedy)
        seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    elif abs(value) > 1e9:
        raise InvalidValueError(field, value, remedy)
    else:
        seconds = float(value)
    if not 0 < seconds <= 1e9:
        raise InvalidValueError(field, value, remedy)
    return seconds


def format_bytes(size_bytes: int) -> str:
    """A size as a person reads it, in powers of 1024 with three digits."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
