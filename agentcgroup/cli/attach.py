# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup attach …` and `detach`: sessions out of what runs already."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ..errors import InvalidValueError, RemoteError
from ..protocol.errors import Kind
from .output import JsonOption, print_json
from .session import (
    BoundaryOption,
    CpuOption,
    IgnoreOption,
    KindOption,
    MemoryOption,
    ModeOption,
    NameOption,
    PidsOption,
    PriorityOption,
    ProgramsOption,
    SessionArgument,
    StopOption,
    _boundary,
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
    stop_agent: StopOption = False,
    boundary: BoundaryOption = None,
    boundary_programs: ProgramsOption = None,
    boundary_ignore: IgnoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """A process, its children, and what they start from now on."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode, stop_agent)
    spec |= _boundary(boundary, boundary_programs, boundary_ignore)
    print_session(_client().adopt(pid, **spec), as_json)


@app.command("docker")
def docker(
    container: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A container, by name or id.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All running containers.")] = False,
    label: Annotated[
        str | None, typer.Option(metavar="KEY[=V]", help="All running ones with this label.")
    ] = None,
    agent_pid: Annotated[
        int | None, typer.Option(help="With --kind outside: the agent's process on the host.")
    ] = None,
    name: NameOption = None,
    memory: MemoryOption = None,
    cpu: CpuOption = None,
    priority: PriorityOption = None,
    kind: KindOption = None,
    pids_max: PidsOption = None,
    mode: ModeOption = None,
    stop_agent: StopOption = False,
    boundary: BoundaryOption = None,
    boundary_programs: ProgramsOption = None,
    boundary_ignore: IgnoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """A container becomes a session where it is, now and after every restart.

    Options win over its labels (agentcgroup.priority, agentcgroup.memory, …).
    """
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode, stop_agent)
    spec |= _boundary(boundary, boundary_programs, boundary_ignore)
    if [container is not None, every, label is not None].count(True) != 1:
        raise InvalidValueError("container", container, "name one, or say --all or --label")
    if container is not None:
        print_session(_client().adopt(agent_pid, container=container, **spec), as_json)
        return
    for option, value in (("--name", name), ("--agent-pid", agent_pid)):
        if value is not None:
            raise InvalidValueError(option, value, "this is for one container: name it")
    _attach_running(label, spec, as_json)


def _attach_running(label: str | None, spec: dict[str, Any], as_json: bool) -> None:
    """As many as can be; those that can't are told of, and the exit code says so."""
    from ..sandbox.docker import DEFAULT_HOST, Engine  # noqa: PLC0415
    from ..sandbox.labels import LabelFilter  # noqa: PLC0415

    wanted = LabelFilter.parse(label, "--label") if label is not None else None
    engine = Engine(os.environ.get("DOCKER_HOST", DEFAULT_HOST))
    client, attached, failed = _client(), [], False
    for found in engine.running(wanted):
        try:
            attached.append(client.adopt(container=found.id, **spec))
        except RemoteError as error:
            failed = failed or error.kind != Kind.ALREADY_EXISTS
            typer.echo(f"{found.name}: {error}", err=True)
    if as_json:
        print_json({"sessions": [session.model_dump(mode="json") for session in attached]})
    else:
        for session in attached:
            typer.echo(f"session {session.name} attached")
    if failed:
        raise typer.Exit(1)


def detach(session: SessionArgument, as_json: JsonOption = False) -> None:
    """Undo attach: lift the limits and give the processes back."""
    info = _client().detach(session)
    if as_json:
        print_session(info, as_json)
    else:
        typer.echo(f"session {info.name} detached")
