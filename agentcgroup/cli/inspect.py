# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup status`, `events` and `why`: what goes on, and how a call ended."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .output import JsonOption, figure, plain, print_figures, print_json, print_table

__all__ = ["events", "status", "why"]

_HEADLINE = {
    "completed": "ended well",
    "failed": "failed by itself",
    "oom_killed": "was killed because memory ran out",
    "timed_out": "was ended because its time was up",
    "killed_by_policy": "was killed by the daemon",
    "refused": "was refused",
    "stopped_by_supervisor": "was stopped by the supervisor",
    "lost": "was lost: its client and the daemon ended together",
}
_LEVEL = {
    "call": "its own limit",
    "tools": "the limit of the session's tools together",
    "session": "the session's budget",
    "host": "the memory of the whole host",
}
# Told in words, or without meaning for people.
_NOT_FIGURES = {
    "call", "session", "reason", "level", "command", "label", "message", "retry",
    "biggest_process",
}  # fmt: skip
_ENVELOPE = {"t_ns", "kind", "session", "call"}


def status(as_json: JsonOption = False) -> None:
    """The daemon: mode, layers in use and missing, budget, sessions."""
    from ..client import Client  # noqa: PLC0415  (quick --help)

    report = Client().status()
    if as_json:
        print_json(report)
        return
    sessions = report.pop("sessions", [])
    missing = report.pop("missing", {})
    print_figures(report)
    if missing:
        typer.echo("not in use:")
        for name, reason in missing.items():
            typer.echo(f"  {plain(name)}: {plain(reason)}")
    if sessions:
        typer.echo()
        print_table(
            ("session", "priority", "mode", "budget", "used", "granted", "calls", "queued"),
            (
                (
                    s.get("name"), s.get("priority"), s.get("mode"),
                    figure("_bytes", s.get("memory_bytes")),
                    figure("_bytes", s.get("memory_current_bytes")),
                    figure("_bytes", s.get("granted_bytes")),
                    len(s.get("calls", [])), s.get("queued"),
                )
                for s in sessions
            ),
        )  # fmt: skip


def events(
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What happens, as it happens, until interrupted; with --json a trace record a line."""
    from ..client import Client  # noqa: PLC0415

    for record in Client().events(session):
        typer.echo(json.dumps(record) if as_json else _event_line(record))


def why(
    call: Annotated[str, typer.Argument(metavar="CALL", help="Name of the tool call.")],
    as_json: JsonOption = False,
) -> None:
    """How a tool call ended, why, and what to try next.

    With --json its outcome record; while it runs, its call record.
    """
    from ..client import Client  # noqa: PLC0415

    info = Client().call(call)
    if as_json:
        print_json((info.outcome or info).model_dump(mode="json"))
    elif info.outcome is None:
        record = info.model_dump(mode="json", exclude={"outcome"})
        typer.echo(f"{plain(info.call)} in session {plain(info.session)} is {plain(info.state)}.")
        print_figures({n: v for n, v in record.items() if n not in ("call", "session", "state")})
    else:
        _tell(info.outcome.model_dump(mode="json"))


def _tell(outcome: dict[str, Any]) -> None:
    headline = _HEADLINE.get(outcome["reason"], outcome["reason"])
    level = _LEVEL.get(outcome.get("level") or "")
    command = outcome.get("command") or outcome.get("label")
    typer.echo(
        f"{plain(outcome['call'])} in session {plain(outcome['session'])} {headline}"
        + (f" ({level})." if level else ".")
    )
    if command:
        typer.echo(f"It ran: {plain(command)}")
    if outcome.get("message"):
        typer.echo(plain(outcome["message"]))
    biggest = outcome.get("biggest_process")
    if biggest and biggest["command"] not in (outcome.get("message") or ""):
        size = figure("_bytes", biggest.get("rss_bytes"))
        typer.echo(f"Its biggest process was {plain(biggest['command'])}, {size}.")
    retry = outcome.get("retry")
    if retry and retry.get("worthwhile"):
        typer.echo(f"Worth trying again with: {plain(json.dumps(retry.get('intent') or {}))}")
    figures = {n: v for n, v in outcome.items() if n not in _NOT_FIGURES and v not in (None, [])}
    if figures:
        typer.echo()
        print_figures(figures)


def _event_line(record: dict[str, Any]) -> str:
    where = "/".join(plain(record[name]) for name in ("session", "call") if record.get(name))
    rest = {name: value for name, value in record.items() if name not in _ENVELOPE}
    body = json.dumps(rest) if rest else ""
    seconds = record.get("t_ns", 0) / 1e9
    return f"{seconds:.3f} {plain(record.get('kind', '')):<10} {where:<24} {plain(body)}".rstrip()
