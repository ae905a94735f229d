# SPDX-License-Identifier: Apache-2.0
"""May this caller do this? Pure, and no by default.

leaf    host.version, session.budget, tool.get of its own call, tool.begin (nested: runs
        in the caller's leaf, no new limits), tool.end of what it began nested
agent   its own session: tool.*, intent.declare, step.report, session.get, session.budget,
        events.subscribe
admin   everything, on the administrators' socket only

A session or call that is not the caller's is refused in the same words whether it exists
or not.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel

from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import Access, Method
from .identity import Identity

__all__ = ["allow", "allow_role", "is_nested", "nested_call"]

LEAF_METHODS = frozenset(
    {"host.version", "session.budget", "tool.get", "tool.begin", "tool.end"}
)  # fmt: skip
AGENT_METHODS = LEAF_METHODS | {
    "tool.update", "tool.list", "tool.resume", "intent.declare", "step.report", "session.get",
    "events.subscribe",
}  # fmt: skip
_BY_ROLE = {
    Access.ANYONE: frozenset({"host.version"}),
    Access.LEAF: LEAF_METHODS,
    Access.AGENT: AGENT_METHODS,
}
_RANK = {role: rank for rank, role in enumerate(Access)}
_NESTED_MARK = "+"


def nested_call(call: str | None, number: int) -> str:
    """Name of the `number`th begin from inside the leaf of `call` (None: background)."""
    return f"{call or 'background'}{_NESTED_MARK}{number}"


def is_nested(call: str) -> bool:
    return _NESTED_MARK in call


def allow(
    identity: Identity,
    method: Method,
    params: BaseModel,
    session_of_call: Callable[[str], str | None],
) -> None:
    """ProtocolError(not_permitted, no_session or not_found) unless the caller may."""
    allow_role(identity, method)
    if identity.role is Access.ADMIN or method.access is Access.ANYONE:
        return
    session = getattr(params, "session", None)
    if session is not None and session != identity.session:
        raise ProtocolError(
            Kind.NOT_PERMITTED, "only your own session can be named here", field="session",
            value=session, remedy=f"leave `session` out; yours is {identity.session}",
        )  # fmt: skip
    call = getattr(params, "call", None)
    if identity.role is Access.LEAF:
        _allow_leaf(identity, method, call)
    elif call is not None and session_of_call(call) != identity.session:
        raise ProtocolError(
            Kind.NOT_FOUND, "your session has no such tool call", field="call", value=call,
            remedy="see tool.list; ended calls are remembered for a day",
        )  # fmt: skip


def allow_role(identity: Identity, method: Method) -> None:
    """The half that needs no parameters: what nobody may ask is not even parsed."""
    role = identity.role
    if role is Access.ADMIN:
        return
    if method.name in _BY_ROLE[role] and _RANK[method.access] <= _RANK[role]:
        return
    if role is Access.ANYONE:
        raise ProtocolError(
            Kind.NO_SESSION, "the calling process is in no session", field="session",
            remedy="start the agent with `agentcgroup session run`, or have an administrator"
            " attach it",
        )  # fmt: skip
    if method.access is Access.ADMIN:
        raise ProtocolError(
            Kind.NOT_PERMITTED, f"{method.name} is for administrators", field="method",
            value=method.name, remedy="ask an administrator of this host (admin.sock)",
        )  # fmt: skip
    raise ProtocolError(
        Kind.NOT_PERMITTED, f"{method.name} is not for processes of a tool call", field="method",
        value=method.name, remedy="ask from the agent itself, outside its tool calls",
    )  # fmt: skip


def _allow_leaf(identity: Identity, method: Method, call: str | None) -> None:
    if method.name == "tool.get":
        allowed = identity.call is not None and call in (None, identity.call)
    elif method.name == "tool.end":
        own = nested_call(identity.call, 0)[:-1]
        allowed = call is not None and call.startswith(own)
    else:
        allowed = call is None
    if not allowed:
        raise ProtocolError(
            Kind.NOT_PERMITTED, "a tool call sees itself and ends only what it began inside",
            field="call", value=call, remedy="ask from the agent itself, outside its tool calls",
        )  # fmt: skip
