# SPDX-License-Identifier: Apache-2.0
"""A pass-through in front of an OpenAI-compatible server: it reports each call as a step.

The upstream is asked for log probabilities and usage; if it refuses such a request, the
client's own is sent and it is not asked again. Answers go to the client byte by byte as they
come. Reporting is done beside, after the answer: it delays no one. Headers and bodies are never
logged, so neither are keys. Standard library only, a thread a connection.
"""

from __future__ import annotations

import http.client
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import AgentCgroupError, InvalidValueError, RemoteError
from ..protocol.messages import AdviceResult
from ..types.steps import Advice
from .llm_messages import COMPLETIONS, asking_for_more, step_fields

__all__ = ["LlmProxy", "Reporter"]

_CHUNK_BYTES = 65536
_MAX_BODY_BYTES = 64 << 20
_MAX_KEPT_BYTES = 16 << 20  # of an answer, for the report
_TIMEOUT_S = 600.0
_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "content-length", "accept-encoding",
})  # fmt: skip
_REFUSED = frozenset({400, 422})

Report = Callable[[dict[str, Any]], AdviceResult]


class Reporter:
    """Numbers the steps and tells the daemon, one after the other, in a thread of its own."""

    def __init__(self, report: Report, say: Callable[[str], None]) -> None:
        self._report = report
        self._say = say
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._steps = 0
        self._told: set[str] = set()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="step reports")
        self._thread.start()

    def put(self, fields: dict[str, Any] | None) -> None:
        """Fields of a step, None: an answer that can't be one."""
        if fields is None:
            self.say_once("an answer without usage is no step: its tokens are unknown")
        else:
            self._queue.put(fields)

    def say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    def close(self) -> None:
        """After what was put is reported."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (fields := self._queue.get()) is not None:
            try:
                told = self._report({**fields, "step": self._steps})
            except RemoteError as error:
                # Its answer was lost on the way, but the step is known there: go on after it.
                self._steps += error.field == "step"
                self.say_once(f"cannot report steps: {error}")
                continue
            except AgentCgroupError as error:
                self.say_once(f"cannot report steps: {error}")
                continue
            self._steps += 1
            if told.advice != Advice.CONTINUE:
                self._say(f"{told.advice}: {told.reason}")
            if told.advice == Advice.STOP:
                self.stopped.set()


@dataclass(frozen=True, slots=True)
class _Upstream:
    """Where requests go. `base`: path that is put before the client's."""

    address: SplitResult

    @classmethod
    def of(cls, url: str) -> _Upstream:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InvalidValueError(
                "--upstream", url, "give an address such as http://127.0.0.1:8080/v1"
            )
        return cls(address)

    def connect(self) -> http.client.HTTPConnection:
        kind = (
            http.client.HTTPSConnection
            if self.address.scheme == "https"
            else http.client.HTTPConnection
        )
        return kind(self.address.hostname or "", self.address.port, timeout=_TIMEOUT_S)

    def path(self, asked: str) -> str:
        """The client speaks to us as if we were the upstream's base: /v1/x is base/x."""
        return self.address.path.rstrip("/") + asked.removeprefix("/v1")


class LlmProxy:
    """serve_forever in the caller's thread; `stop_refuses`: no more completions after a stop."""

    def __init__(
        self, upstream: str, listen: tuple[str, int], reporter: Reporter, *, stop_refuses: bool
    ) -> None:
        self.upstream = _Upstream.of(upstream)
        self.reporter = reporter
        self.stop_refuses = stop_refuses
        self.asks = True
        handler = type("Handler", (_Handler,), {"proxy": self})
        try:
            self._server = ThreadingHTTPServer(listen, handler)
        except OSError as error:
            where = f"{listen[0]}:{listen[1]}"
            raise InvalidValueError("--listen", where, error.strerror or str(error)) from None
        self._server.daemon_threads = True

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def serve_forever(self) -> None:
        self._server.serve_forever()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.reporter.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: LlmProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _answering = False

    def do_GET(self) -> None:
        self._forward(b"")

    def do_DELETE(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            self._problem(413, f"send a Content-Length of at most {_MAX_BODY_BYTES} bytes")
            return
        self._forward(self.rfile.read(int(length)))

    def _forward(self, body: bytes) -> None:
        self._answering = False
        path = self.path.partition("?")[0]
        is_step = self.command == "POST" and path.endswith(COMPLETIONS)
        if is_step and self.proxy.stop_refuses and self.proxy.reporter.stopped.is_set():
            self._problem(403, "the supervisor advised this run to stop")
            return
        connection = self.proxy.upstream.connect()
        try:
            response = self._ask(connection, body, is_step)
            kept = self._pass_on(response)
        except (OSError, http.client.HTTPException) as error:
            self.close_connection = True
            self.proxy.reporter.say_once(f"a call broke off: {type(error).__name__}")
            if not self._answering:
                self._problem(502, "the upstream did not answer")
            return
        finally:
            connection.close()
        if is_step and response.status == 200:
            kind = response.headers.get("Content-Type", "")
            self.proxy.reporter.put(step_fields(kind, kept) if kept is not None else None)

    def _ask(
        self, connection: http.client.HTTPConnection, body: bytes, is_step: bool
    ) -> http.client.HTTPResponse:
        more = None
        if is_step and self.proxy.asks:
            more = asking_for_more(self.path.partition("?")[0], body)
        response = self._send(connection, more if more is not None else body)
        if more is not None and response.status in _REFUSED:
            response.read()
            connection.close()
            plain = self._send(connection, body)
            if plain.status not in _REFUSED:
                self.proxy.asks = False
                self.proxy.reporter.say_once("the upstream gives no log probabilities")
            return plain
        return response

    def _send(
        self, connection: http.client.HTTPConnection, body: bytes
    ) -> http.client.HTTPResponse:
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP
        }
        # What is compressed can't be read on its way.
        headers["Accept-Encoding"] = "identity"
        connection.request(self.command, self.proxy.upstream.path(self.path), body, headers)
        return connection.getresponse()

    def _pass_on(self, response: http.client.HTTPResponse) -> bytes | None:
        """Each piece at once; what was passed on, None if it is too long to keep."""
        self._answering = True
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        chunked = response.length is None
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(response.length))
        self.end_headers()
        kept, size = bytearray(), 0
        while piece := response.read1(_CHUNK_BYTES):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            size += len(piece)
            if size <= _MAX_KEPT_BYTES:
                kept += piece
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        return bytes(kept) if size <= _MAX_KEPT_BYTES else None

    def _problem(self, status: int, message: str) -> None:
        body = b'{"error":{"type":"agentcgroup","message":"%s"}}' % message.encode()
        try:
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests carry keys."""


def say(text: str) -> None:
    print(f"agentcgroup llm-proxy: {text}", file=sys.stderr, flush=True)


def split_listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidValueError("--listen", text, "give an address such as 127.0.0.1:8788")
    return host.strip("[]"), int(port)


def reporter_for(report: Callable[..., AdviceResult], session: str | None) -> Reporter:
    """`report` is the client's report_step."""
    named: Mapping[str, Any] = {} if session is None else {"session": session}
    return Reporter(lambda fields: report(**fields, **named), say)
