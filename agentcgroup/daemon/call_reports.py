# SPDX-License-Identifier: Apache-2.0
"""What is told about calls that ended, ran nested, or are not known."""

from __future__ import annotations

from ..errors import printable
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import CallInfo, ToolEnd
from ..types.outcomes import Outcome, Reason
from .server_request import RequestContext

__all__ = ["ended_info", "nested_outcome", "unknown_call"]


def unknown_call(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.NOT_FOUND, f"there is no tool call {printable(name)}", field="call", value=name,
        remedy="check its name; outcomes are kept for a while only, and not those of calls"
        " whose session was detached",
    )  # fmt: skip


def ended_info(outcome: Outcome) -> CallInfo:
    return CallInfo(
        call=outcome.call,
        session=outcome.session,
        state="ended",
        command=outcome.command,
        label=outcome.label,
        waited_ms=outcome.waited_ms,
        outcome=outcome,
    )


def nested_outcome(context: RequestContext, params: ToolEnd) -> Outcome:
    well = params.signal is None and params.exit_code == 0
    return Outcome(
        call=params.call,
        session=context.identity.session or "",
        reason=Reason.COMPLETED if well else Reason.FAILED,
        exit_code=params.exit_code,
        signal=params.signal,
    )
