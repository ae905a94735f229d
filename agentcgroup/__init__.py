# SPDX-License-Identifier: Apache-2.0
"""A limit for every tool call of an AI agent, with a reason the agent can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .types.intents import Intent
    from .types.outcomes import Outcome

__all__ = ["AsyncClient", "Client", "Intent", "Outcome", "version"]

_WHERE = {
    "AsyncClient": ".client",
    "Client": ".client",
    "Intent": ".types.intents",
    "Outcome": ".types.outcomes",
}


def version() -> str:
    """The installed package's version."""
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version("agentcgroup")
    except metadata.PackageNotFoundError:
        return "0.1.0+source"


def __getattr__(name: str) -> Any:
    """Names are loaded when first used, so that importing the package costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_WHERE[name], __name__), name)
