# SPDX-License-Identifier: Apache-2.0
"""The command tree. Families that load much are loaded only when they are called.

`--help` needs their one line of help; a test holds it to what the family says itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from . import attach, diagnose, hook, inspect, llm_proxy, mcp, observe, run, session, top

__all__ = ["build_app", "build_daemon_app"]

DAEMON_HELP = "Run the daemon in the foreground until SIGTERM. Needs root and cgroup v2."
TRACE_HELP = "Record, read and replay agent sessions."
SUPERVISOR_HELP = "Stop runs that are going to fail: train, judge and explain models."
_VERBATIM = {"allow_extra_args": True, "ignore_unknown_options": True}


def build_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """The app for this command line; `arguments` tells which lazy family to load."""
    app = typer.Typer(
        name="agentcgroup",
        help="A limit for every tool call of an AI agent, with a reason the agent can act on.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    _add_daemon(app, load=chosen == "daemon")
    app.add_typer(diagnose.config_app, name="config")
    app.command("doctor")(diagnose.doctor)
    app.command("run", context_settings={"allow_interspersed_args": False})(run.run)
    app.add_typer(session.app, name="session")
    app.add_typer(attach.app, name="attach")
    app.command("detach")(attach.detach)
    app.command("status")(inspect.status)
    app.command("top")(top.top)
    app.command("events")(inspect.events)
    app.command("why")(inspect.why)
    app.add_typer(hook.app, name="hook")
    app.command("mcp")(mcp.mcp)
    app.command("llm-proxy")(llm_proxy.llm_proxy)
    app.add_typer(observe.app, name="observe")
    _add_trace(app, load=chosen == "trace")
    _add_supervisor(app, load=chosen == "supervisor")
    app.command("protocol")(diagnose.protocol)
    return app


def build_daemon_app() -> typer.Typer:
    """`agentcgroupd`: the daemon's options without a command word."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    _add_daemon(app, load=True)
    return app


def _add_daemon(app: typer.Typer, *, load: bool) -> None:
    if load:
        from .daemon import daemon  # noqa: PLC0415

        app.command("daemon")(daemon)
    else:
        app.command("daemon", help=DAEMON_HELP)(_not_loaded)


def _add_trace(app: typer.Typer, *, load: bool) -> None:
    if load:
        from .trace import app as trace_app  # noqa: PLC0415

        app.add_typer(trace_app, name="trace")
    else:
        app.command("trace", help=TRACE_HELP, context_settings=_VERBATIM)(_not_loaded)


def _add_supervisor(app: typer.Typer, *, load: bool) -> None:
    if load:
        from .supervisor import app as supervisor_app  # noqa: PLC0415

        app.add_typer(supervisor_app, name="supervisor")
    else:
        app.command("supervisor", help=SUPERVISOR_HELP, context_settings=_VERBATIM)(_not_loaded)


def _not_loaded() -> None:
    raise AssertionError("build_app was not told which command is called")
