# SPDX-License-Identifier: Apache-2.0
"""A limit for every tool call of an AI agent, with a reason the agent can act on.

`from agentcgroup import Client, Intent, Outcome` is the SDK; importing the package
alone loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client, Intent, Outcome

__all__ = ["Client", "Intent", "Outcome"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import client  # noqa: PLC0415  (the point: nothing loads until asked for)

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
