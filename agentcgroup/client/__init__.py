# SPDX-License-Identifier: Apache-2.0
"""SDK: run an agent's tool calls under limits and learn how they ended.

    from agentcgroup.client import Client

    with Client().tool_call(memory="2G", timeout_s=600) as call:
        result = call.run(["pytest", "-q"])
    print(call.outcome.reason, call.outcome.message)

Names are loaded when first used: `agentcgroup run` needs one small module of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..types.intents import Intent
    from ..types.outcomes import Outcome
    from .async_client import AsyncClient
    from .async_shell import AsyncShell
    from .async_toolcall import AsyncToolCall
    from .client import Client
    from .shell import Shell
    from .shell_dialog import CompletedCommand
    from .toolcall import CompletedCall, ToolCall

__all__ = [
    "AsyncClient",
    "AsyncShell",
    "AsyncToolCall",
    "Client",
    "CompletedCall",
    "CompletedCommand",
    "Intent",
    "Outcome",
    "Shell",
    "ToolCall",
]

_WHERE = {
    "AsyncClient": ".async_client",
    "AsyncShell": ".async_shell",
    "AsyncToolCall": ".async_toolcall",
    "Client": ".client",
    "CompletedCall": ".toolcall",
    "CompletedCommand": ".shell_dialog",
    "Intent": "..types.intents",
    "Outcome": "..types.outcomes",
    "Shell": ".shell",
    "ToolCall": ".toolcall",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_WHERE[name], __name__), name)
