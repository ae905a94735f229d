# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup hook …`: agent CLIs run their shell commands as tool calls."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidValueError
from ..integrations.hook_agents import Agent, agent_named
from ..integrations.hook_install import Change, apply, plan_install, plan_uninstall
from ..integrations.hook_run import MODES, main

__all__ = ["app"]

app = typer.Typer(
    name="hook", help="Hooks of agent CLIs: their commands as tool calls.", no_args_is_help=True
)

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="claude-code or codex.")]
ScopeOption = Annotated[str, typer.Option(help="Whose settings: user, project or local.")]
FileOption = Annotated[Path | None, typer.Option(help="The settings file itself.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
ShowOption = Annotated[bool, typer.Option("--dry-run", help="Show it and change nothing.")]
ModeOption = Annotated[
    str,
    typer.Option(
        help="rewrite: run commands through agentcgroup-run; declare: only tell the daemon;"
        " auto: rewrite, unless permission rules look at command lines."
    ),
]


@app.command("install")
def install(
    agent: AgentArgument,
    scope: ScopeOption = "user",
    file: FileOption = None,
    mode: ModeOption = "auto",
    yes: YesOption = False,
    dry_run: ShowOption = False,
) -> None:
    """Write our hooks into the agent's settings, shown first."""
    if mode not in MODES:
        raise InvalidValueError("--mode", mode, "modes here: " + ", ".join(MODES))
    chosen = agent_named(agent)
    where = _file(chosen, scope, file)
    if _carry_out(plan_install(chosen, where, _program(), mode), yes, dry_run):
        typer.echo(f"Installed. {chosen.note} Undo: agentcgroup hook uninstall {agent}")


@app.command("uninstall")
def uninstall(
    agent: AgentArgument,
    scope: ScopeOption = "user",
    file: FileOption = None,
    yes: YesOption = False,
    dry_run: ShowOption = False,
) -> None:
    """Take our hooks out again; the file becomes what it was."""
    if _carry_out(plan_uninstall(_file(agent_named(agent), scope, file)), yes, dry_run):
        typer.echo("Removed.")


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """What the agent calls: one hook event on stdin, the answer on stdout."""
    raise typer.Exit(main(context.args))


def _file(agent: Agent, scope: str, file: Path | None) -> Path:
    if file is not None:
        return file
    if scope not in ("user", "project", "local"):
        raise InvalidValueError("--scope", scope, "scopes here: user, project, local")
    return agent.settings_file(scope, os.environ)


def _carry_out(change: Change, yes: bool, dry_run: bool) -> bool:
    """Show, ask where somebody can answer, write."""
    if not change.needed:
        typer.echo(f"{change.file}: nothing to change")
        return False
    name = str(change.file)
    diff = difflib.unified_diff(
        (change.before or "").splitlines(), (change.after or "").splitlines(), name, name,
        lineterm="",
    )  # fmt: skip
    typer.echo("\n".join(diff))
    if dry_run:
        return False
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Write {change.file}?"):
        return False
    apply(change)
    return True


def _program() -> str:
    """This program, by a path that still leads here from the agent's environment."""
    called = Path(sys.argv[0])
    if called.name == "agentcgroup" and called.is_file():
        return str(called.absolute())
    return shutil.which("agentcgroup") or "agentcgroup"
