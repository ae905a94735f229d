# SPDX-License-Identifier: Apache-2.0
"""One client's connection: who asks, may it, run the handler, answer.

Nothing here waits. Answers go out in order of completion; the end of the connection
cancels what it still waits for.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import InvalidValueError, NotPermittedError
from ..log import get_logger
from ..protocol import codec
from ..protocol.errors import Kind, ProtocolError, error_object
from ..protocol.messages import METHODS, Access
from ..types.validation import parse
from . import access
from .connection_input import Incoming, Input
from .connection_output import Output
from .crashpoints import crash_point
from .identity import PeerHandle
from .server_limits import Account
from .server_request import RequestContext
from .server_shared import Shared

__all__ = ["Connection"]

_log = get_logger(__name__)
_EXPECTED = (ProtocolError, InvalidValueError, NotPermittedError)
_ANSWERED = {"tool.begin": "begin.answered", "tool.end": "end.answered"}
_Task = asyncio.Task[str]


class Connection:
    """The server has admitted it to `account`; `closed` is called when that is to end."""

    __slots__ = (
        "_closed", "_heard_all", "_input", "_on_close", "_output", "_peer", "_shared", "_sock",
        "_tasks", "_waiting", "account", "alive", "id",
    )  # fmt: skip

    def __init__(
        self, number: int, shared: Shared, sock: socket.socket, peer: PeerHandle, *,
        account: Account, closed: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        self.id = number
        self.alive = True
        self.account = account
        self._shared = shared
        self._sock: socket.socket | None = sock
        self._peer = peer
        self._closed = closed
        self._heard_all = False
        self._input = Input(shared, account)
        self._output = Output(shared, sock, account, emptied=self._emptied, failed=self.close)
        self._waiting: deque[Incoming] = deque()
        self._tasks: set[_Task] = set()
        self._on_close: list[Callable[[], None]] = []
        shared.loop.add_reader(sock.fileno(), self._readable)

    def notify(self, method: str, params: dict[str, Any]) -> bool:
        if not self.alive:
            return False
        if self._output.drops_events:
            self._output.drop_event()  # without encoding it for a reader that is behind
            return False
        return self._output.send_event(codec.notification(method, params))

    def notify_line(self, line: bytes) -> bool:
        return self.alive and self._output.send_event(line)

    def on_close(self, callback: Callable[[], None]) -> None:
        if self.alive:
            self._on_close.append(callback)
        else:
            callback()

    def close(self) -> None:
        self._end()
        self._hang_up()

    def close_after_answers(self) -> None:
        """What was answered is still delivered, what was not is given up."""
        self._end()
        if not self._output:
            self._hang_up()

    # Input

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            incoming = self._input.receive(self._sock)
        except (BlockingIOError, InterruptedError):
            return
        except ProtocolError as error:
            self._answer_error(None, error)
            self.close_after_answers()
            return
        except OSError:
            self.close()
            return
        if incoming is None:
            self._heard_all = True
            self.close_after_answers()
        elif incoming:
            self._waiting.extend(incoming)
            self._serve()
            if self._waiting and self.alive:
                # The others' turn; nothing more is read while some still wait here.
                self._shared.loop.remove_reader(self._sock.fileno())
                self._shared.loop.call_soon(self._serve_rest)

    def _serve(self) -> None:
        for _ in range(self._shared.limits.requests_per_turn):
            if not self._waiting or not self.alive:
                return
            self._request(self._waiting.popleft())

    def _serve_rest(self) -> None:
        self._serve()
        if self._sock is None or not self.alive:
            return
        if self._waiting:
            self._shared.loop.call_soon(self._serve_rest)
        else:
            self._shared.loop.add_reader(self._sock.fileno(), self._readable)

    # Requests

    def _request(self, incoming: Incoming) -> None:
        self._shared.counters.requests += 1
        request_id = None
        try:
            request = codec.decode_request(incoming.line)
            request_id = request.id
            context = self._admit(request, incoming)
            incoming.descriptor = None  # the handler's from here on
            task = self._shared.start(context)
        except Exception as error:
            self._answer_error(_id_of(incoming.line) if request_id is None else request_id, error)
            return
        finally:
            if incoming.descriptor is not None:
                self._input.discard(incoming.descriptor)
        if task.done():
            self._finish(request_id, context.method.name, task)
        else:
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, request_id, context.method.name))

    def _admit(self, request: codec.Request, incoming: Incoming) -> RequestContext:
        shared = self._shared
        if incoming.refused is not None:
            raise incoming.refused
        method = METHODS.get(request.method)
        if method is None:
            raise ProtocolError(
                Kind.METHOD_NOT_FOUND, "no such method", field="method", value=request.method,
                remedy="`agentcgroup protocol` lists them",
            )  # fmt: skip
        if incoming.descriptor is not None and not method.descriptor:
            shared.counters.bad_descriptors += 1
            raise ProtocolError(
                Kind.BAD_DESCRIPTOR, f"{method.name} takes no descriptor", field="descriptor",
                value=method.name, remedy="send this message without one",
            )  # fmt: skip
        if method.access is Access.ANYONE:
            identity = self._peer.stranger()
        else:
            identity = self._peer.identify(shared.registry)
            access.allow_role(identity, method)
        params = parse(method.params, request.params)
        access.allow(identity, method, params, shared.registry.session_of_call)
        if len(self._tasks) >= shared.limits.requests_in_flight:
            raise ProtocolError(
                Kind.TOO_MANY, "too many requests of this connection wait for their answers",
                field="connection", value=len(self._tasks), remedy="wait for answers first",
            )  # fmt: skip
        return RequestContext(identity, method, params, incoming.descriptor, self)

    def _finish(self, request_id: int | str | None, method: str, task: _Task) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._answer_error(
                request_id,
                ProtocolError(Kind.SHUTTING_DOWN, "the request was given up", field="method",
                              remedy="ask again on a new connection"),
            )  # fmt: skip
        elif (error := task.exception()) is not None:
            self._answer_error(request_id, error)
        elif self.alive and request_id is not None:
            self._output.send(codec.result(request_id, task.result()))
            crash_point(_ANSWERED.get(method, ""))
        self._release_peer()

    def _answer_error(self, request_id: int | str | None, error: BaseException) -> None:
        if isinstance(error, _EXPECTED):
            self._shared.counters.refused_requests += 1
        else:
            self._shared.counters.failed_requests += 1
            _log.error("a request failed", exc_info=error)
        if self.alive:
            self._output.send(_error_line(request_id, error))

    # End

    def _end(self) -> None:
        """Nothing new is read or started; idempotent."""
        if not self.alive:
            return
        self.alive = False
        assert self._sock is not None
        self._shared.loop.remove_reader(self._sock.fileno())
        for task in tuple(self._tasks):
            task.cancel()
        for message in self._waiting:
            if message.descriptor is not None:
                self._input.discard(message.descriptor)
        self._waiting.clear()
        self._input.close()
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _log.exception("a callback at a connection's end failed")
        self._release_peer()

    def _emptied(self) -> None:
        if not self.alive:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._sock is None:
            return
        sock, self._sock = self._sock, None
        self._output.close()
        if self._heard_all:
            sock.close()  # nothing unread is left, and nothing can come any more
        else:
            self._shared.closer.close_socket(sock, self.account.name)
        self._closed(self)

    def _release_peer(self) -> None:
        # Cancelled handlers may use the pidfd until they return.
        if not self.alive and not self._tasks:
            self._peer.close()


def _id_of(line: bytes) -> int | str | None:
    """The id of a message that is no request, so that its sender can match the answer."""
    try:
        found = codec.decode(line).get("id")
    except ProtocolError:
        return None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def _error_line(request_id: int | str | None, error: BaseException) -> bytes:
    shown = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
    try:
        return codec.error(request_id, error_object(shown))
    except (ValueError, RecursionError):
        # The value that was refused is nested too deep even to be shown.
        plain = ProtocolError(Kind.INVALID_PARAMS, "cannot use these parameters", field="params",
                              remedy="see docs/protocol.md for what the method takes")  # fmt: skip
        return codec.error(request_id, error_object(plain))
