# SPDX-License-Identifier: Apache-2.0
"""Printing: JSON with the protocol's own keys, tables and figures for people.

Names and command lines come from untrusted code: they are shown as plain text, without
markup, control characters or colour of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from ..units import format_bytes

__all__ = [
    "PIPE_WIDTH",
    "JsonOption",
    "figure",
    "plain",
    "print_figures",
    "print_json",
    "print_table",
]

_NEVER_FOLDED = 20
PIPE_WIDTH = 160

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows of plain values; numbers to the right."""
    from rich.console import Console  # noqa: PLC0415  (JSON needs no rich)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [[plain(cell) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        cells = [row[number] for row in shown]
        right = any(cells) and all(cell[:1].isdigit() or not cell for cell in cells)
        narrow = max(map(len, cells), default=0) <= _NEVER_FOLDED
        table.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=narrow
        )
    for row in shown:
        table.add_row(*(Text(cell) for cell in row))
    # Without a terminal nobody wraps: files and pipes get whole columns.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    Console(width=width).print(table)


def print_figures(figures: Mapping[str, Any]) -> None:
    """Names and values below each other; what is not known is left out."""
    known = {name: figure(name, value) for name, value in figures.items() if value is not None}
    width = max((len(_title(name)) for name in known), default=0)
    for name, value in known.items():
        typer.echo(f"{_title(name):<{width}}  {plain(value)}")


def figure(name: str, value: Any) -> str:
    """A value as its name's unit says people read it."""
    if value is None or value == "":
        return "-"
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_epoch_s"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if name.endswith("_s") and not isinstance(value, str):
        return f"{value:.3g} s"
    if name.endswith("_ms") and not isinstance(value, str):
        return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        parts = (f"{_title(str(key))} {figure(str(key), item)}" for key, item in value.items())
        return ", ".join(parts) or "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)


def plain(value: Any) -> str:
    """Printable, on one line."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _title(name: str) -> str:
    for suffix in ("_epoch_s", "_bytes", "_ms", "_s"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")
