# SPDX-License-Identifier: Apache-2.0
"""SDK: run an agent's tool calls under limits and learn how they ended.

from agentcgroup.client import Client

with Client().tool_call(memory="2G", timeout_s=600) as call:
    result = call.run(["pytest", "-q"])
print(call.outcome.reason, call.outcome.message)
"""

from __future__ import annotations

from ..types.intents import Intent
from ..types.outcomes import Outcome
from .client import Client
from .toolcall import CompletedCall, ToolCall

__all__ = ["Client", "CompletedCall", "Intent", "Outcome", "ToolCall"]
