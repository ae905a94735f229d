# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup daemon`: configuration file, then options on top, then run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..types.validation import parse

__all__ = ["daemon"]

_MEMORY_LAYERS = ("auto", "files", "events", "gate", "memcg_ops")


def daemon(
    config: Annotated[str | None, typer.Option(help="Configuration file (TOML).")] = None,
    root: Annotated[str | None, typer.Option(help="Cgroup that holds the tree.")] = None,
    socket: Annotated[str | None, typer.Option(help="Path of the agents' socket.")] = None,
    cpu: Annotated[str | None, typer.Option(help="auto, files or sched_ext.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="auto, or layers: files,events,gate,memcg_ops.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="enforce, observe or off.")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="No daemon rather than one without --cpu sched_ext.")
    ] = False,
) -> None:
    """Run the daemon in the foreground until SIGTERM. Needs root and cgroup v2."""
    from ..daemon.config import Config, load_config  # noqa: PLC0415  (quick --help)
    from ..daemon.main import run  # noqa: PLC0415

    loaded = load_config(config)
    given = {
        "root": root,
        "socket": socket,
        "cpu_layer": cpu,
        "memory_layers": _memory(memory),
        "mode": mode,
        "cpu_require": require or None,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    section = {**loaded.daemon.model_dump(mode="json"), **changes}
    merged = {**loaded.model_dump(mode="json"), "daemon": section}
    run(parse(Config, merged, error=ConfigError), config)


def _memory(value: str | None) -> str | None:
    if value is None:
        return None
    layers = [part.strip() for part in value.split(",")]
    for layer in layers:
        if layer not in _MEMORY_LAYERS:
            raise ConfigError("memory", layer, "layers here: " + ", ".join(_MEMORY_LAYERS))
    return "auto" if "auto" in layers else ",".join(layers)
