# SPDX-License-Identifier: Apache-2.0
"""What an importer hands over: records of the project's format, and what it had to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..records import Record

__all__ = ["Changes", "Imported"]


class Changes:
    """Counts what was left out or mended, by what it was; one line for each kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        self._counts[what] += count

    def lines(self) -> list[str]:
        return [f"{count} x {what}" if count > 1 else what for what, count in self._counts.items()]


@dataclass(slots=True)
class Imported:
    """`source_kind`: agentcgroup, agentstop or stats. `changes`: what was dropped or fixed.

    `epoch_ns`: Unix time at `t_ns` 0; 0 where the source does not tell.
    """

    source_kind: str
    records: list[Record]
    epoch_ns: int = 0
    changes: list[str] = field(default_factory=list)

    @property
    def sessions(self) -> list[str]:
        return list(dict.fromkeys(r["session"] for r in self.records if "session" in r))

    def host(self) -> dict[str, Any]:
        """The header's `host`: where the trace is from."""
        return {"imported_from": self.source_kind, "import_changes": self.changes}
