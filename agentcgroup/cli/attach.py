# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup attach …` and `detach`: sessions out of what runs already."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import JsonOption
from .session import (
    CpuOption,
    KindOption,
    MemoryOption,
    ModeOption,
    NameOption,
    PidsOption,
    PriorityOption,
    SessionArgument,
    _client,
    _spec,
    print_session,
)

__all__ = ["app", "detach"]

app = typer.Typer(name="attach", help="Make a session of what runs already.", no_args_is_help=True)


@app.callback()
def _family() -> None:
    """Make a session of what runs already."""


@app.command("pid")
def pid(
    pid: Annotated[int, typer.Argument(metavar="PID", help="The agent's process.")],
    name: NameOption = None,
    memory: MemoryOption = None,
    cpu: CpuOption = None,
    priority: PriorityOption = None,
    kind: KindOption = None,
    pids_max: PidsOption = None,
    mode: ModeOption = None,
    as_json: JsonOption = False,
) -> None:
    """A process, its children, and what they start from now on."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode)
    print_session(_client().adopt(pid, **spec), as_json)


def detach(session: SessionArgument, as_json: JsonOption = False) -> None:
    """Undo attach: lift the limits and give the processes back."""
    info = _client().detach(session)
    if as_json:
        print_session(info, as_json)
    else:
        typer.echo(f"session {info.name} detached")
