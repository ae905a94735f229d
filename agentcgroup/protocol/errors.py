# SPDX-License-Identifier: Apache-2.0
"""The closed list of error kinds, and their form on the wire.

Every error carries `kind`, `field`, `value` and `remedy` in JSON-RPC's `error.data`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from ..errors import AgentCgroupError, InvalidValueError, NotPermittedError, RemoteError, printable

__all__ = ["Kind", "ProtocolError", "error_object", "from_error_object"]


class Kind(StrEnum):
    PARSE_ERROR = "parse_error"
    INVALID_REQUEST = "invalid_request"
    METHOD_NOT_FOUND = "method_not_found"
    INVALID_PARAMS = "invalid_params"
    MESSAGE_TOO_LARGE = "message_too_large"
    BAD_DESCRIPTOR = "bad_descriptor"
    NOT_PERMITTED = "not_permitted"
    NO_IDENTITY = "no_identity"
    NO_SESSION = "no_session"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    TARGET_REFUSED = "target_refused"
    OVER_BUDGET = "over_budget"
    REFUSED = "refused"
    WAIT_TIMEOUT = "wait_timeout"
    TOO_MANY = "too_many"
    NOT_SUPPORTED = "not_supported"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


_CODES = {
    Kind.PARSE_ERROR: -32700,
    Kind.INVALID_REQUEST: -32600,
    Kind.METHOD_NOT_FOUND: -32601,
    Kind.INVALID_PARAMS: -32602,
    Kind.INTERNAL: -32603,
}
_SERVER_ERROR = -32000


class ProtocolError(AgentCgroupError):
    """A refusal as the daemon raises it; becomes one error object."""

    def __init__(
        self, kind: Kind, message: str, *, field: str = "", value: Any = None, remedy: str = ""
    ) -> None:
        self.kind = kind
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(message)


def error_object(error: Exception) -> dict[str, Any]:
    """JSON-RPC error object of any exception; unexpected ones say only `internal`."""
    if isinstance(error, InvalidValueError):
        error = ProtocolError(
            Kind.INVALID_PARAMS, str(error), field=error.field, value=error.value,
            remedy=error.remedy,
        )  # fmt: skip
    elif isinstance(error, NotPermittedError):
        error = ProtocolError(Kind.NOT_PERMITTED, str(error))
    elif not isinstance(error, ProtocolError):
        error = ProtocolError(
            Kind.INTERNAL, f"{type(error).__name__} in the daemon",
            remedy="see the daemon's log; the request changed nothing further",
        )  # fmt: skip
    return {
        "code": _CODES.get(error.kind, _SERVER_ERROR),
        "message": str(error),
        "data": {
            "kind": error.kind.value,
            "field": error.field,
            "value": _shown(error.value),
            "remedy": error.remedy,
        },
    }


def from_error_object(error: dict[str, Any]) -> RemoteError:
    data = error.get("data") or {}
    return RemoteError(
        str(data.get("kind", Kind.INTERNAL.value)),
        str(error.get("message", "the daemon gave no reason")),
        field=str(data.get("field", "")),
        value=data.get("value"),
        remedy=str(data.get("remedy", "")),
    )


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return printable(value)
