# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup doctor`, `config check` and `protocol`: what can this host, is this right?"""

from __future__ import annotations

from typing import Annotated

import typer

from .output import JsonOption, print_json, print_table

__all__ = ["config_app", "doctor", "protocol"]

config_app = typer.Typer(name="config", help="The daemon's configuration.", no_args_is_help=True)


@config_app.callback()
def _family() -> None:
    """The daemon's configuration."""


@config_app.command("check")
def check(
    file: Annotated[
        str | None, typer.Argument(help="Default: the file the daemon would read.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a configuration file; with --json print what it comes to with all defaults."""
    from ..daemon.config import DEFAULT_CONFIG_PATH, load_config  # noqa: PLC0415

    config = load_config(file)
    if as_json:
        print_json(config.model_dump(mode="json"))
    else:
        typer.echo(f"{file or DEFAULT_CONFIG_PATH}: ok")


def doctor(as_json: JsonOption = False) -> None:
    """What this host can do, capability by capability, and what to do about the rest."""
    from .checkup import examine  # noqa: PLC0415  (probes load the cgroup and BPF rooms)

    report = examine()
    if as_json:
        print_json(report)
        return
    typer.echo(
        "asked the running daemon"
        if report["source"] == "daemon"
        else "no daemon was asked: probed from here"
    )
    print_table(
        ("capability", "answer", "reason, and what to do"),
        (
            (found["name"], found["answer"], "; ".join(filter(None, _words(found))))
            for found in report["capabilities"]
        ),
    )


def _words(found: dict[str, str]) -> tuple[str, str]:
    return found["reason"], f"to do: {found['remedy']}" if found["remedy"] else ""


def protocol(
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print the types of every method.")
    ] = False,
) -> None:
    """Methods of the daemon's socket and who may call them."""
    from ..protocol import messages  # noqa: PLC0415

    if json_schema:
        print_json(messages.json_schema())
        return
    print_table(
        ("method", "access", "takes a pidfd", "parameters"),
        (
            (
                method.name, method.access.value, "yes" if method.descriptor else "",
                ", ".join(method.params.model_fields),
            )
            for method in messages.METHODS.values()
        ),
    )  # fmt: skip
