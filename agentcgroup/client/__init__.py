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
    from .client import Client
    from .toolcall import CompletedCall, ToolCall

__all__ = ["Client", "CompletedCall", "Intent", "Outcome", "ToolCall"]

_WHERE = {
    "Client": ".client",
    "CompletedCall": ".toolcall",
    "Intent": "..types.intents",
    "Outcome": "..types.outcomes",
    "ToolCall": ".toolcall",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_WHERE[name], __name__), name)
