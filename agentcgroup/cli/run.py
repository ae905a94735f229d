# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup run`: one command as a tool call, where agentcgroup-run is not installed.

Takes the options of the static program and ends as it does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidValueError

if TYPE_CHECKING:
    from ..types.intents import Intent

__all__ = ["run"]


def run(
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    session: Annotated[str | None, typer.Option(help="The session that pays.")] = None,
    memory: Annotated[str | None, typer.Option(help="Expected peak, such as 2G.")] = None,
    memory_max: Annotated[str | None, typer.Option(help="Hard cap.")] = None,
    swap_max: Annotated[str | None, typer.Option(help="Swap at most.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Cores expected.")] = None,
    cpu_max: Annotated[str | None, typer.Option(help="Cores at most.")] = None,
    pids_max: Annotated[str | None, typer.Option(help="Processes and threads at most.")] = None,
    io_weight: Annotated[str | None, typer.Option(help="1 to 10000.")] = None,
    latency: Annotated[str | None, typer.Option(help="interactive, standard or batch.")] = None,
    duration: Annotated[str | None, typer.Option(help="Expected run time.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Ends the call when it is over.")] = None,
    on_exceed: Annotated[str | None, typer.Option(help="throttle, wait or kill.")] = None,
    max_wait: Annotated[str | None, typer.Option(help="For admission and more memory.")] = None,
    background: Annotated[str | None, typer.Option(help="kill or keep what outlives it.")] = None,
    label: Annotated[str | None, typer.Option(help="For logs and reports.")] = None,
    retry_of: Annotated[str | None, typer.Option(help="The call this one tries again.")] = None,
    json_outcome: Annotated[Path | None, typer.Option(help="Write the outcome here.")] = None,
    require: Annotated[bool, typer.Option("--require", help="No daemon: exit 69.")] = False,
) -> None:
    """Run a command as a tool call with its own limits and exit as it does."""
    said = {
        "memory": memory, "memory_max": memory_max, "swap_max": swap_max, "cpu": cpu,
        "cpu_max": cpu_max, "pids_max": pids_max, "io_weight": io_weight, "latency": latency,
        "duration_s": duration, "timeout_s": timeout, "on_exceed": on_exceed,
        "max_wait_s": max_wait, "background": background, "label": label, "retry_of": retry_of,
    }  # fmt: skip
    intent = {field: value for field, value in said.items() if value is not None}
    raise typer.Exit(_run(command, intent, session, json_outcome, require))


def _run(
    command: list[str],
    intent: dict[str, Any],
    session: str | None,
    json_outcome: Path | None,
    require: bool,
) -> int:
    from ..client import Client  # noqa: PLC0415  (quick --help)
    from ..errors import RefusedError  # noqa: PLC0415
    from ..types.outcomes import EXIT_OF_REASON  # noqa: PLC0415
    from .processes import exit_status, wait_forwarding  # noqa: PLC0415

    call = Client(require=require).tool_call(intent, session=session)
    status = 0
    try:
        with call:
            child = call.popen(command, env=_environment(call.intent))
            status = exit_status(wait_forwarding(child))
    except FileNotFoundError:
        print(f"agentcgroup: {command[0]}: command not found", file=sys.stderr)
        return 127
    except PermissionError as problem:
        if problem.filename != command[0]:
            raise
        print(f"agentcgroup: {command[0]}: not executable", file=sys.stderr)
        return 126
    except RefusedError:
        _write_outcome(json_outcome, call.outcome)
        raise
    outcome = call.outcome
    _write_outcome(json_outcome, outcome)
    if outcome is None:
        return status
    if outcome.message and call.managed:
        print(outcome.message, file=sys.stderr)
    return EXIT_OF_REASON.get(outcome.reason, status)


def _environment(intent: Intent) -> dict[str, str]:
    """Ours, and what the command may use, as far as it was said."""
    from ..integrations.advice import CPUS_VARIABLE, budget_variables  # noqa: PLC0415
    from .processes import usable_cpus  # noqa: PLC0415

    told = budget_variables(intent.cpu_max, intent.memory_max, usable_cpus())
    if intent.cpu_max is None:  # then who started the agent knows better
        told[CPUS_VARIABLE] = os.environ.get(CPUS_VARIABLE, told[CPUS_VARIABLE])
    return {**os.environ, **told}


def _write_outcome(path: Path | None, outcome: Any) -> None:
    if path is None or outcome is None:
        return
    try:
        path.write_text(outcome.model_dump_json() + "\n", encoding="utf-8")
    except OSError as problem:
        raise InvalidValueError(
            "--json-outcome", str(path), f"name a file that can be written ({problem.strerror})"
        ) from None
