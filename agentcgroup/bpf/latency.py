# SPDX-License-Identifier: Apache-2.0
"""Latency distributions from the buckets of bpf/latency.bcc.h. Pure.

Bucket 8 * k + j holds durations from (8 + j) / 8 * 2^k ns up to the next bucket's start:
a percentile read from it is off by at most a sixteenth of its value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Latency", "bucket_of", "bucket_start_ns", "percentile_ns"]

_PER_OCTAVE = 8


@dataclass(frozen=True, slots=True)
class Latency:
    """How often something took how long; `buckets` maps a bucket to its count."""

    count: int = 0
    sum_ns: int = 0
    max_ns: int = 0
    buckets: Mapping[int, int] | None = None

    def joined_by(self, durations_ns: Iterable[int]) -> Latency:
        """These counted in."""
        added = list(durations_ns)
        buckets = Counter(self.buckets or {})
        buckets.update(map(bucket_of, added))
        return Latency(
            count=self.count + len(added),
            sum_ns=self.sum_ns + sum(added),
            max_ns=max(self.max_ns, *added, 0),
            buckets=buckets,
        )

    def in_ms(self) -> dict[str, float | int | None]:
        """Percentiles, maximum and sum in milliseconds; null where nothing was counted."""
        told: dict[str, float | int | None] = {
            name: _ms(percentile_ns(self.buckets or {}, share, self.max_ns))
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }
        counted = self.count > 0
        return {
            **told,
            "max": _ms(self.max_ns) if counted else None,
            "total": _ms(self.sum_ns),
            "count": self.count,
        }


def bucket_of(duration_ns: int) -> int:
    """As the programs compute it."""
    octave = max(0, duration_ns.bit_length() - 1)
    return _PER_OCTAVE * octave + (duration_ns * _PER_OCTAVE >> octave) % _PER_OCTAVE


def bucket_start_ns(bucket: int) -> float:
    """The shortest duration that falls into it."""
    octave, part = divmod(bucket, _PER_OCTAVE)
    return float((_PER_OCTAVE + part) * 2.0**octave / _PER_OCTAVE)


def percentile_ns(buckets: Mapping[int, int], share: float, max_ns: int) -> float | None:
    """The middle of the bucket that holds this share, never beyond the longest seen."""
    total = sum(buckets.values())
    if not total:
        return None
    rank, passed = min(total - 1, int(share * total)), 0
    for bucket in sorted(buckets):
        passed += buckets[bucket]
        if passed > rank:
            middle_ns = (bucket_start_ns(bucket) + bucket_start_ns(bucket + 1)) / 2
            return min(middle_ns, float(max_ns)) if max_ns else middle_ns
    return float(max_ns)


def _ms(value_ns: float | None) -> float | None:
    return None if value_ns is None else round(value_ns / 1e6, 6)
