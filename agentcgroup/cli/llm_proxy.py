# SPDX-License-Identifier: Apache-2.0
"""agentcgroup llm-proxy: report an agent's model calls as steps, without changing the agent."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

__all__ = ["llm_proxy"]


def llm_proxy(
    upstream: Annotated[str, typer.Option(help="Base address, such as http://127.0.0.1:8080/v1.")],
    listen: Annotated[str, typer.Option(help="Where the agent finds it.")] = "127.0.0.1:8788",
    session: Annotated[str | None, typer.Option(help="Whose steps; default: its own.")] = None,
    stop_refuses: Annotated[
        bool, typer.Option("--stop-refuses", help="No more completions after advice to stop.")
    ] = False,
) -> None:
    """Pass an OpenAI-compatible API through and report each completion as a step."""
    from ..client.client import Client  # noqa: PLC0415
    from ..integrations.llm_proxy import (  # noqa: PLC0415
        LlmProxy,
        reporter_for,
        say,
        split_listen,
    )

    reporter = reporter_for(Client().report_step, session)
    proxy = LlmProxy(upstream, split_listen(listen), reporter, stop_refuses=stop_refuses)
    host, port = proxy.address
    say(f"http://{host}:{port}/v1 passes on to the upstream")
    with contextlib.suppress(KeyboardInterrupt):
        proxy.serve_forever()
