# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV: a line a quantity, unrounded, an empty cell where there is no value."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .study import Table

__all__ = ["write_csv"]

COLUMNS = (
    "set", "table", "quantity", "unit", "paper", "corrected", "paper_definition",
    "corrected_definition",
)  # fmt: skip


def write_csv(path: Path, tables: Sequence[Table]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(COLUMNS)
        for table in tables:
            for row in table.rows:
                lines.writerow(
                    (
                        table.set_name, table.name, row.quantity, row.unit,
                        "" if row.paper is None else repr(row.paper),
                        "" if row.corrected is None else repr(row.corrected),
                        table.paper_definition, table.corrected_definition,
                    )
                )  # fmt: skip
