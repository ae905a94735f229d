# SPDX-License-Identifier: Apache-2.0
"""The four shapes of a control file: one integer or "max", flat keyed, nested keyed, PSI.

Keys that a newer kernel adds are kept; a line that doesn't parse raises FormatError
where the whole file is in doubt and is left out where only that line is.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FormatError
from .files import MAX

__all__ = ["PsiLine", "flat_keyed", "int_or_max", "nested_keyed", "pressure", "words"]


def int_or_max(text: str, field: str = "control file") -> int | None:
    """The integer; None for "max"."""
    plain = text.strip()
    if plain == MAX:
        return None
    try:
        return int(plain)
    except ValueError:
        raise FormatError(field, text, "expected one integer or 'max'") from None


def flat_keyed(text: str) -> dict[str, int]:
    """`key value` a line. A value "max" has no integer, so its key is left out."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        try:
            found[key] = int(value)
        except ValueError:
            continue
    return found


def nested_keyed(text: str) -> dict[str, dict[str, str]]:
    """`name key=value key=value` a line (io.stat, io.max). Values stay text."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        name, *pairs = line.split() or [""]
        if not name or "=" in name:
            continue
        fields = found.setdefault(name, {})
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if key and equals:
                fields[key] = value
    return found


@dataclass(frozen=True, slots=True)
class PsiLine:
    """One line of a pressure file. `total_us` rises; the averages are percent of wall time."""

    avg10_pct: float
    avg60_pct: float
    avg300_pct: float
    total_us: int


def pressure(text: str) -> dict[str, PsiLine]:
    """Lines `some` and `full` of a *.pressure file, whichever are there."""
    found = {}
    for name, fields in nested_keyed(text).items():
        try:
            found[name] = PsiLine(
                float(fields["avg10"]),
                float(fields["avg60"]),
                float(fields["avg300"]),
                int(fields["total"]),
            )
        except (KeyError, ValueError):
            continue
    return found


def words(text: str) -> frozenset[str]:
    """Space-separated names (cgroup.controllers, cgroup.subtree_control)."""
    return frozenset(text.split())
