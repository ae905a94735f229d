# SPDX-License-Identifier: Apache-2.0
"""How soon to look at a call's memory again. Bytes and nanoseconds.

The kernel tells when a call meets its line; looking before is what lets the line move
ahead of it. So who grows is looked at again when half of the room it has left could be
gone, and who stands still ever more rarely.
"""

from __future__ import annotations

from ..units import MIB

__all__ = ["FASTEST_LOOK_NS", "SLOWEST_LOOK_NS", "next_look_at_ns", "next_look_ns"]

SLOWEST_LOOK_NS = 250_000_000
FASTEST_LOOK_NS = 10_000_000
_GROWING_LOOK_NS = 100_000_000
_STIRRED_LOOK_NS = 20_000_000
_SHRUNK_LOOK_NS = 50_000_000
_NEAR_BYTES = 48 * MIB
_MOVED_BYTES = MIB
_STIRRED_BYTES = 64 << 10


def next_look_ns(
    gained_bytes: int, elapsed_ns: int, left_bytes: int | None, last_look_ns: int
) -> int:
    """Nanoseconds until the next look, after one that found `gained_bytes` more (or less) than
    `elapsed_ns` ago and `left_bytes` to the line (None: there is none)."""
    if gained_bytes >= _MOVED_BYTES:
        left_ns = _GROWING_LOOK_NS
        if left_bytes is not None:
            # A burst may have begun at the end of a long rest.
            gained_ns = min(elapsed_ns, _STIRRED_LOOK_NS)
            left_ns = gained_ns * max(0, left_bytes) // (2 * gained_bytes)
        return max(FASTEST_LOOK_NS, min(_GROWING_LOOK_NS, left_ns))
    if gained_bytes <= -_MOVED_BYTES:
        return _SHRUNK_LOOK_NS
    near = left_bytes is not None and left_bytes < _NEAR_BYTES
    if near and abs(gained_bytes) >= _STIRRED_BYTES:
        return _STIRRED_LOOK_NS
    return min(SLOWEST_LOOK_NS, 2 * last_look_ns)


def next_look_at_ns(now_ns: int, interval_ns: int) -> int:
    """When that is. Calls that nothing moves in are looked at together: one turn of the
    daemon's loop for all of them."""
    if interval_ns < SLOWEST_LOOK_NS:
        return now_ns + interval_ns
    # Who is looked at a little early must not be looked at twice.
    latest_ns = now_ns + SLOWEST_LOOK_NS + SLOWEST_LOOK_NS // 8
    return latest_ns - latest_ns % SLOWEST_LOOK_NS
