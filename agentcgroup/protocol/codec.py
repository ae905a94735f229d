# SPDX-License-Identifier: Apache-2.0
"""JSON-RPC 2.0, one message a line, UTF-8, at most 1 MiB.

A line is bytes without the newline. Nothing here does I/O.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .errors import Kind, ProtocolError

__all__ = ["MAX_MESSAGE_BYTES", "LineBuffer", "Request", "decode_request", "encode"]

MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """`id` is None for a notification (which gets no answer)."""

    id: int | str | None
    method: str
    params: dict[str, Any]


def encode(message: dict[str, Any]) -> bytes:
    """One line with its newline."""
    return _ENCODER.encode(message).encode() + b"\n"


def result(request_id: int | str | None, result_json: str) -> bytes:
    """The answer around a result that is JSON text already."""
    shown_id = request_id if isinstance(request_id, int) else _ENCODER.encode(request_id)
    return f'{{"jsonrpc":"2.0","id":{shown_id},"result":{result_json}}}\n'.encode()


def error(request_id: int | str | None, error_object: dict[str, Any]) -> bytes:
    return encode({"jsonrpc": "2.0", "id": request_id, "error": error_object})


def notification(method: str, params: dict[str, Any]) -> bytes:
    return encode({"jsonrpc": "2.0", "method": method, "params": params})


def decode(line: bytes) -> dict[str, Any]:
    """A JSON object, or ProtocolError(parse_error | invalid_request)."""
    try:
        message = _DECODER.decode(line.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise ProtocolError(
            Kind.PARSE_ERROR, "cannot read the message as JSON",
            value=line[:64].decode("utf-8", "replace"),
            remedy=f"send one JSON object a line in UTF-8 ({type(problem).__name__})",
        ) from None  # fmt: skip
    if not isinstance(message, dict):
        raise ProtocolError(
            Kind.INVALID_REQUEST, "a message must be a JSON object (batches are not offered)",
            value=type(message).__name__, remedy="send one request object a line",
        )  # fmt: skip
    return message


def decode_request(line: bytes) -> Request:
    message = decode(line)
    request_id = message.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, int | str | None):
        raise ProtocolError(
            Kind.INVALID_REQUEST, "cannot use this id", field="id", value=request_id,
            remedy="use an integer or a string",
        )  # fmt: skip
    method, params = message.get("method"), message.get("params", {})
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise ProtocolError(
            Kind.INVALID_REQUEST, "not a JSON-RPC 2.0 request", field="method", value=method,
            remedy='send {"jsonrpc":"2.0","id":1,"method":"…","params":{…}}',
        )  # fmt: skip
    if not isinstance(params, dict):
        raise ProtocolError(
            Kind.INVALID_REQUEST, "params must be an object with named fields", field="params",
            value=params, remedy="send parameters by name",
        )  # fmt: skip
    return Request(request_id, method, params)


class LineBuffer:
    """Bytes in, whole lines out; raises message_too_large past the limit."""

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        lines = []
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            lines.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            self._searched = 0
        self._searched = len(self._buffer)
        if len(self._buffer) > self._max_bytes or any(len(x) > self._max_bytes for x in lines):
            raise ProtocolError(
                Kind.MESSAGE_TOO_LARGE, f"a message may have {self._max_bytes} bytes",
                field="message", value=len(self._buffer),
                remedy="send less text; the connection is closed now",
            )  # fmt: skip
        return lines


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """1e999 is JSON, but what Python makes of it is not."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:32]} is too large a number")
    return value


# Made once: json.loads and json.dumps build a new one for every message with options.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
