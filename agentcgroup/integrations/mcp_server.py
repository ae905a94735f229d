# SPDX-License-Identifier: Apache-2.0
"""An MCP server over stdio: a model declares what it is about to do, and asks how it went.

The server is a child of the agent, so the daemon knows its session by its cgroup. It only
asks: commands run where the agent runs them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import MCPServerError, ResourceError, ToolError
from pydantic import BaseModel, Field

from .. import version
from ..client import Client
from ..errors import AgentCgroupError, RemoteError
from ..protocol.messages import BudgetResult, CallList, SessionInfo
from ..types.outcomes import Outcome
from .advice import budget_advice, workers

__all__ = ["build_server", "serve"]

_INSTRUCTIONS = (
    "Commands run under memory limits. Before a command that needs much memory or time, call"
    " declare_intent. Before starting many workers, call resource_budget. When a command was"
    " killed, call last_outcome and do what its message advises."
)
_CLIENT_TIMEOUT_S = 10.0
_LOOKED_AT = 100


class Declared(BaseModel):
    """`intent_id` names the declaration; the next matching command uses it up."""

    intent_id: str


class Budget(BudgetResult):
    """`workers`: how many a command should start; `advice`: the same in words."""

    host_cpus: int
    workers: int
    advice: str


def build_server(session: str | None = None) -> MCPServer:
    """Not connected to anything yet. `session`: default is the caller's own."""
    asks = _Asks(Client(timeout_s=_CLIENT_TIMEOUT_S), session)
    server = MCPServer("agentcgroup", version=version(), instructions=_INSTRUCTIONS)
    for tool in (asks.declare_intent, asks.resource_budget, asks.last_outcome):
        server.add_tool(tool)
    resource = server.resource
    resource("agentcgroup://session", mime_type="application/json")(asks.session_status)
    resource("agentcgroup://calls", mime_type="application/json")(asks.running_calls)
    return server


def serve(session: str | None = None) -> None:
    """Speak MCP on stdin and stdout until stdin ends."""
    build_server(session).run("stdio")


class _Asks:
    """Each public method is a tool or a resource; its docstring is what the model reads."""

    def __init__(self, client: Client, session: str | None) -> None:
        self._client = client
        self._session = session

    def declare_intent(
        self,
        memory: Annotated[str | None, Field(description="Expected peak, such as 2G.")] = None,
        memory_max: Annotated[
            str | None, Field(description="Hard cap: the command is killed above it.")
        ] = None,
        cpu: Annotated[float | None, Field(description="Cores expected.")] = None,
        duration: Annotated[str | None, Field(description="Expected, such as 90s or 5m.")] = None,
        timeout: Annotated[str | None, Field(description="The command ends after this.")] = None,
        match: Annotated[
            str | None, Field(description="Only a command line like this, such as *pytest*.")
        ] = None,
        ttl_s: Annotated[float, Field(description="Forgotten after this many seconds.")] = 60.0,
    ) -> Declared:
        """Say what the next command will need, before you run it."""
        said = {
            "memory": memory, "memory_max": memory_max, "cpu": cpu, "duration_s": duration,
            "timeout_s": timeout,
        }  # fmt: skip
        with _told(ToolError):
            intent = {name: value for name, value in said.items() if value is not None}
            declared = self._client.declare_intent(
                intent, match=match, ttl_s=ttl_s, session=self._own().name
            )
        return Declared(intent_id=declared)

    def resource_budget(self) -> Budget:
        """What memory and cores this session has and what is free of it now."""
        with _told(ToolError):
            budget = self._client.budget(self._session)
        host_cpus = len(os.sched_getaffinity(0))
        free_bytes = budget.memory_free_bytes
        return Budget(
            **budget.model_dump(),
            host_cpus=host_cpus,
            workers=workers(budget.cpu, host_cpus, free_bytes),
            advice=budget_advice(budget.cpu, host_cpus, free_bytes),
        )

    def last_outcome(
        self,
        call: Annotated[
            str | None, Field(description="Name of a call; default: the one that ended last.")
        ] = None,
    ) -> Outcome:
        """How a command ended: reason, peak, limit, biggest process, and what to try next."""
        with _told(ToolError):
            if call is not None:
                found = self._client.call(call).outcome
                if found is None:
                    raise ToolError(f"{call} still runs")
                return found
            calls = self._client.calls(self._own().name, limit=_LOOKED_AT)
        ended = [each.outcome for each in calls if each.outcome is not None]
        if not ended:
            raise ToolError("no command of this session has ended yet")
        return max(ended, key=lambda outcome: outcome.ended_epoch_s or 0.0)

    def session_status(self) -> str:
        """This session: budget, use, agent, running calls."""
        with _told(ResourceError):
            return self._own().model_dump_json()

    def running_calls(self) -> str:
        """The commands that run or wait now, with memory, grant and cap."""
        with _told(ResourceError):
            calls = self._client.calls(self._own().name, ended=False)
        return CallList(calls=calls).model_dump_json()

    def _own(self) -> SessionInfo:
        """An administrator, too, must be in a session or have named one."""
        return self._client.session(self._session)


@contextlib.contextmanager
def _told(kind: type[MCPServerError]) -> Iterator[None]:
    """The model reads what was wrong and what to do, not that something crashed."""
    try:
        yield
    except AgentCgroupError as problem:
        remedy: Any = problem.remedy if isinstance(problem, RemoteError) else ""
        text = str(problem)
        raise kind(f"{text}: {remedy}" if remedy and remedy not in text else text) from None
