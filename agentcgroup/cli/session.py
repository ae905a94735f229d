# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup session …`: run an agent in a session of its own, and manage sessions."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, Any

import typer

from ..errors import InvalidValueError, RemoteError
from ..units import parse_cores, parse_size_bytes
from .output import JsonOption, figure, print_figures, print_json, print_table
from .processes import usable_cpus

__all__ = ["app", "print_session"]

app = typer.Typer(
    name="session", help="Sessions: one agent run each, owner of a budget.", no_args_is_help=True
)

SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.")]
NameOption = Annotated[str | None, typer.Option(help="Name; made up when missing.")]
MemoryOption = Annotated[str | None, typer.Option(help="Budget, such as 4G.")]
CpuOption = Annotated[str | None, typer.Option(help="Cores.")]
PriorityOption = Annotated[str | None, typer.Option(help="high, normal or low.")]
KindOption = Annotated[
    str | None,
    typer.Option(help="inside (moved into the session) or outside (stays, bound by pidfd)."),
]
PidsOption = Annotated[int | None, typer.Option(help="Processes at most, agent and tools.")]
StopOption = Annotated[
    bool,
    typer.Option("--stop-agent", help="With outside: the supervisor may kill the agent's process."),
]
ModeOption = Annotated[
    str | None, typer.Option(help="enforce, observe (only log) or off; default: the daemon's.")
]
BoundaryOption = Annotated[
    str | None,
    typer.Option(help="exec (the agent's shells begin tool calls by themselves) or declared."),
]
ProgramsOption = Annotated[
    str | None,
    typer.Option(
        "--boundary-programs", metavar="NAME,…",
        help="With exec: programs that begin a call, * for all; default: shells.",
    ),
]  # fmt: skip
IgnoreOption = Annotated[
    str | None,
    typer.Option("--boundary-ignore", metavar="NAME,…", help="With exec: programs that never do."),
]


@app.command("run", context_settings={"allow_interspersed_args": False})
def run(
    agent: Annotated[list[str], typer.Argument(help="The agent and its arguments, after --.")],
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
) -> None:
    """Run an agent in a session that ends with it; exit as the agent does."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode, stop_agent)
    spec |= _boundary(boundary, boundary_programs, boundary_ignore)
    raise typer.Exit(_run_agent(agent, spec))


@app.command("create")
def create(
    name: NameOption = None,
    memory: MemoryOption = None,
    cpu: CpuOption = None,
    priority: PriorityOption = None,
    kind: KindOption = None,
    pids_max: PidsOption = None,
    mode: ModeOption = None,
    boundary: BoundaryOption = None,
    boundary_programs: ProgramsOption = None,
    boundary_ignore: IgnoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a session without an agent; `run --session` and the SDK work in it."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode)
    spec |= _boundary(boundary, boundary_programs, boundary_ignore)
    print_session(_client().create_session(**spec), as_json)


@app.command("list")
def list_sessions(as_json: JsonOption = False) -> None:
    """All sessions with budget and use."""
    sessions = _client().sessions()
    if as_json:
        print_json({"sessions": [session.model_dump(mode="json") for session in sessions]})
        return
    print_table(
        ("session", "kind", "priority", "mode", "budget", "used", "granted", "calls", "queued",
         "containment"),
        (
            (
                s.name, s.kind, s.priority, s.mode,
                figure("_bytes", s.memory_bytes), figure("_bytes", s.memory_current_bytes),
                figure("_bytes", s.granted_bytes), len(s.calls), s.queued, s.containment,
            )
            for s in sessions
        ),
    )  # fmt: skip


@app.command("show")
def show(session: SessionArgument, as_json: JsonOption = False) -> None:
    """One session: budget, use, agent, calls."""
    print_session(_client().session(session), as_json)


@app.command("budget")
def budget(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="Default: the caller's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a session has and what is free of it now, before something big is started."""
    from ..integrations.advice import budget_advice  # noqa: PLC0415  (quick --help)

    found = _client().budget(session)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_figures(found.model_dump(mode="json"))
    advice = budget_advice(found.cpu, usable_cpus(), found.memory_free_bytes)
    if advice:
        typer.echo(advice)


@app.command("update")
def update(
    session: SessionArgument,
    memory: MemoryOption = None,
    cpu: CpuOption = None,
    priority: PriorityOption = None,
    pids_max: PidsOption = None,
    mode: ModeOption = None,
    boundary: BoundaryOption = None,
    boundary_programs: ProgramsOption = None,
    boundary_ignore: IgnoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change budget, cores, priority, processes, mode or boundary of a running session."""
    changes = _spec(None, memory, cpu, priority, None, pids_max, mode)
    changes |= _boundary(boundary, boundary_programs, boundary_ignore)
    if not changes:
        raise InvalidValueError(
            "options", "", "say what to change: --memory, --cpu, --priority, --pids-max, --mode or"
            " --boundary",
        )  # fmt: skip
    print_session(_client().update_session(session, **changes), as_json)


@app.command("end")
def end(session: SessionArgument, as_json: JsonOption = False) -> None:
    """End a session: its calls, everything else in it, and its cgroups."""
    result = _client().end_session(session)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    typer.echo(f"session {result.session} ended")
    for outcome in result.outcomes:
        typer.echo(f"{outcome.call}: {outcome.reason.value}")


def print_session(info: Any, as_json: bool) -> None:
    """One session, as the protocol's result object or for people."""
    record = info.model_dump(mode="json")
    if as_json:
        print_json({"session": record})
    else:
        print_figures({name: value for name, value in record.items() if value not in ([], {})})


def _client() -> Any:
    from ..client import Client  # noqa: PLC0415  (quick --help)

    return Client()


def _spec(
    name: str | None,
    memory: str | None,
    cpu: str | None,
    priority: str | None,
    kind: str | None,
    pids_max: int | None,
    mode: str | None,
    stop_agent: bool = False,
) -> dict[str, Any]:
    said = {
        "name": name, "memory": memory, "cpu": cpu, "priority": priority, "kind": kind,
        "pids_max": pids_max, "mode": mode, "stop_agent": stop_agent or None,
    }  # fmt: skip
    return {field: value for field, value in said.items() if value is not None}


def _boundary(boundary: str | None, programs: str | None, ignored: str | None) -> dict[str, Any]:
    said = {"boundary": boundary, "boundary_programs": programs, "boundary_ignore": ignored}
    return {field: value for field, value in said.items() if value is not None}


def _run_agent(agent: list[str], spec: dict[str, Any]) -> int:
    """The agent waits until it is in its session; then it runs as our child.

    The session is ephemeral: should we be killed, it still ends with the agent.
    """
    from ..client.child import WaitingChild  # noqa: PLC0415
    from ..integrations.advice import budget_variables  # noqa: PLC0415
    from ..protocol.sockets import SOCKET_VARIABLE, socket_from_environment  # noqa: PLC0415
    from .processes import exit_status, wait_forwarding  # noqa: PLC0415

    client = _client()
    cpu = parse_cores(spec["cpu"]) if "cpu" in spec else None
    memory_bytes = parse_size_bytes(spec["memory"], "memory") if "memory" in spec else None
    environment = {
        **os.environ,
        **budget_variables(cpu, memory_bytes, usable_cpus()),
        SOCKET_VARIABLE: socket_from_environment(),
    }
    child = WaitingChild(agent, {"env": environment})
    try:
        session = client.create_session(**spec, ephemeral=True, pidfd=child.pidfd)
    except BaseException:
        child.abandon()
        raise
    status = wait_forwarding(child.release())
    with contextlib.suppress(RemoteError):  # it ended with its agent
        client.end_session(session.name)
    return exit_status(status)
