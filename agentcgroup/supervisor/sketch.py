# SPDX-License-Identifier: Apache-2.0
"""What a run said before, in fixed memory: a bitmap of hashed 4-grams that ages.

Two generations of bits: when the younger one is an eighth full it becomes the older one and
a new one begins, so that a run of any length neither grows nor finds everything repeated
(at most a quarter of what is new looks seen).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection

__all__ = ["ShingleMemory", "places_of", "shingles_of"]

SHINGLE_WORDS = 4
# A step's text beyond this many words adds time, not signal: repetition shows long before.
MAX_WORDS = 2048
_MAX_CHARS = 16 * MAX_WORDS
_BITS = 1 << 16
_MIXER = 0x9E3779B1  # odd, near 2^32 / golden ratio: CRC alone is linear, like texts collide
_WORD = re.compile(r"\w+|[^\w\s]")


def shingles_of(text: str) -> frozenset[int]:
    """Hashes (32 bit) of the text's word 4-grams; a shorter text is one shingle."""
    found = _WORD.findall(text[:_MAX_CHARS])[:MAX_WORDS]
    words = [word.encode() for word in found]
    if not words:
        return frozenset()
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(
        [zlib.crc32(b" ".join(words[start : start + SHINGLE_WORDS])) for start in range(last)]
    )


def places_of(shingles: Collection[int]) -> list[int]:
    """Where each shingle's bit is."""
    return [(shingle * _MIXER & 0xFFFFFFFF) >> 16 for shingle in shingles]


class ShingleMemory:
    """Which places were seen. 16 KiB, whatever the length of the run."""

    def __init__(self) -> None:
        self._young = bytearray(_BITS // 8)
        self._old = bytearray(_BITS // 8)
        self._young_set = 0

    def seen_share(self, places: Collection[int]) -> float:
        """Share (0 to 1) of `places` that was added before; 0 of none."""
        if not places:
            return 0.0
        young, old = self._young, self._old
        seen = sum([(young[place >> 3] | old[place >> 3]) >> (place & 7) & 1 for place in places])
        return seen / len(places)

    def add(self, places: Collection[int]) -> None:
        young = self._young
        for place in places:
            bit = 1 << (place & 7)
            if not young[place >> 3] & bit:
                young[place >> 3] |= bit
                self._young_set += 1
        if self._young_set > _BITS // 8:
            self._old, self._young = self._young, bytearray(_BITS // 8)
            self._young_set = 0
