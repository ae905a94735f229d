# SPDX-License-Identifier: Apache-2.0
"""agentcgroup trace report: one HTML file from traces, runs and capacities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Traces and decision logs; JSON of replay, compare, simulate and capacity."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file; written anew.")],
    title: Annotated[str, typer.Option(help="Heading.")] = "agentcgroup report",
) -> None:
    """One self-contained HTML file: timelines, policies, latencies, density, reasons."""
    from ..trace.report.build import build_report  # noqa: PLC0415  (pydantic models take time)

    text = build_report(sources, title)
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: {len(text.encode()) / 1024:.0f} KiB")
