# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup session …`: run an agent in a session of its own, and manage sessions."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, Any

import typer

from ..errors import InvalidValueError, RemoteError
from .output import JsonOption, figure, print_figures, print_json, print_table

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
ModeOption = Annotated[
    str | None, typer.Option(help="enforce, observe (only log) or off; default: the daemon's.")
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
) -> None:
    """Run an agent in a session that ends with it; exit as the agent does."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode)
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
    as_json: JsonOption = False,
) -> None:
    """Make a session without an agent; `run --session` and the SDK work in it."""
    spec = _spec(name, memory, cpu, priority, kind, pids_max, mode)
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


@app.command("update")
def update(
    session: SessionArgument,
    memory: MemoryOption = None,
    cpu: CpuOption = None,
    priority: PriorityOption = None,
    pids_max: PidsOption = None,
    mode: ModeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change budget, cores, priority, processes or mode of a running session."""
    changes = _spec(None, memory, cpu, priority, None, pids_max, mode)
    if not changes:
        raise InvalidValueError(
            "options", "", "say what to change: --memory, --cpu, --priority, --pids-max or --mode"
        )
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
) -> dict[str, Any]:
    said = {
        "name": name, "memory": memory, "cpu": cpu, "priority": priority, "kind": kind,
        "pids_max": pids_max, "mode": mode,
    }  # fmt: skip
    return {field: value for field, value in said.items() if value is not None}


def _run_agent(agent: list[str], spec: dict[str, Any]) -> int:
    """The agent waits until it is in its session; then it runs as our child.

    The session is ephemeral: should we be killed, it still ends with the agent.
    """
    from ..client.child import WaitingChild  # noqa: PLC0415
    from ..protocol.sockets import SOCKET_VARIABLE, socket_from_environment  # noqa: PLC0415
    from .processes import exit_status, wait_forwarding  # noqa: PLC0415

    client = _client()
    environment = {**os.environ, SOCKET_VARIABLE: socket_from_environment()}
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
