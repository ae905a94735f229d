# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace analyze: the paper's tables over recorded runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import print_table

__all__ = ["add_to"]

Directories = Annotated[
    list[Path],
    typer.Argument(metavar="DIR...", help="Sets of tasks, tasks, or directories of traces."),
]


def add_to(app: typer.Typer) -> None:
    app.command("analyze")(analyze)


def analyze(
    directories: Directories,
    as_authors: Annotated[
        bool, typer.Option(help="The authors' figures alone, bug for bug, in their nesting.")
    ] = False,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here, unrounded.")
    ] = None,
    csv_out: Annotated[Path | None, typer.Option("--csv", help="Write the tables here.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Draw pictures (PNG) into this directory.")
    ] = None,
) -> None:
    """Where time and memory go: each figure as the paper defines it and corrected."""
    # numpy and the trace readers take half a second: not for the other commands.
    from ..trace.analysis.authors import as_authors as authors_figures  # noqa: PLC0415
    from ..trace.analysis.load import load_sets  # noqa: PLC0415
    from ..trace.analysis.output import write_csv  # noqa: PLC0415
    from ..trace.analysis.study import study, study_json  # noqa: PLC0415

    sets = load_sets(directories)
    if as_authors:
        found = authors_figures(sets)
        _write_json(json_out, found)
        if json_out is None:
            typer.echo(json.dumps(found, indent=1))
    tables = [] if as_authors and csv_out is None else study(sets)
    if not as_authors:
        _print_tables(tables)
        _write_json(json_out, study_json(tables))
    if csv_out is not None:
        write_csv(csv_out, tables)
    if pictures is not None:
        from ..trace.analysis.pictures import draw_pictures  # noqa: PLC0415

        for path in draw_pictures(pictures, sets):
            typer.echo(str(path), err=True)


def _write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _print_tables(tables: Sequence[Any]) -> None:
    for table in tables:
        typer.echo(f"\n{table.set_name}: {table.title}")
        typer.echo(f"  paper: {table.paper_definition}")
        typer.echo(f"  corrected: {table.corrected_definition}")
        print_table(
            ("quantity", "unit", "paper", "corrected"),
            [(r.quantity, r.unit, _figure(r.paper), _figure(r.corrected)) for r in table.rows],
        )


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.6g}"
