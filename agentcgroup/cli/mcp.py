# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup mcp`: the MCP server on stdin and stdout."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["mcp"]


def mcp(
    session: Annotated[str | None, typer.Option(help="Default: the caller's own.")] = None,
) -> None:
    """Speak MCP on stdin and stdout: intents, budget, outcomes. Needs the extra 'mcp'."""
    from ..integrations.mcp_server import serve  # noqa: PLC0415  (quick --help)

    serve(session)
