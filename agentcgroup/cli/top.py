# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup top`: sessions and their tool calls, live or once."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from .output import PIPE_WIDTH, JsonOption, print_json

if TYPE_CHECKING:
    from .top_rows import Snapshot

__all__ = ["top"]

# Between the two readings that a single table's rates are taken from.
_APART_S = 0.5
# A host with more calls is asked for each session's.
_CALLS_AT_ONCE = 400


def top(as_json: JsonOption = False) -> None:
    """Sessions and tool calls, live: cpu, memory against grant and cap, pressure, waits.

    Without a terminal one table; with --json one object.
    """
    from ..client import Client  # noqa: PLC0415  (quick --help)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # whatever the locale cannot show
    client = Client()
    if not as_json and _interactive():
        from .top_live import run_live  # noqa: PLC0415

        run_live(lambda: read_snapshot(client))
        return
    before = read_snapshot(client)
    time.sleep(_APART_S)
    now = read_snapshot(client)
    if as_json:
        from .top_rows import as_json as described  # noqa: PLC0415

        print_json(described(before, now))
    else:
        _print_once(before, now)


def read_snapshot(client: Any) -> Snapshot:
    """What the daemon says now, in two requests (more where calls are very many)."""
    from ..protocol.messages import SessionInfo  # noqa: PLC0415
    from .top_rows import Snapshot  # noqa: PLC0415

    status = dict(client.status())
    sessions = tuple(SessionInfo.model_validate(s) for s in status.pop("sessions", ()))
    busy = [session for session in sessions if session.calls or session.queued]
    if sum(len(session.calls) + session.queued for session in busy) <= _CALLS_AT_ONCE:
        calls = client.live_calls() if busy else []
    else:
        calls = [info for session in busy for info in client.live_calls(session.name)]
    return Snapshot(status, sessions, tuple(calls), time.time())


def _interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _print_once(before: Snapshot, now: Snapshot) -> None:
    from rich.console import Console  # noqa: PLC0415

    from .top_rows import groups, ordered  # noqa: PLC0415
    from .top_view import EMPTY, flat, header, table  # noqa: PLC0415

    whole = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if whole else PIPE_WIDTH)
    found = ordered(groups(before, now), "memory")
    console.print(header(now.status, found, console.width))
    console.print()
    if found:
        console.print(table(flat(found), console.width, sort="memory"))
    else:
        for line in EMPTY:
            typer.echo(line)
