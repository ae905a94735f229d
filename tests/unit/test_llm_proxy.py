# SPDX-License-Identifier: Apache-2.0
"""The pass-through: bytes untouched, log probabilities asked for, steps told, nothing logged."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.errors import InvalidValueError, RemoteError
from agentcgroup.integrations.llm_messages import asking_for_more, step_fields
from agentcgroup.integrations.llm_proxy import LlmProxy, Reporter, split_listen
from agentcgroup.protocol.messages import AdviceResult

KEY = "Bearer sk-secret"
ANSWER = {
    "choices": [{
        "index": 0,
        "message": {"content": "Hi", "tool_calls": [{"function": {"name": "bash"}}]},
        "logprobs": {"content": [{"token": "Hi", "logprob": -0.25}]},
    }],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1},
}  # fmt: skip
EVENTS = [
    {"choices": [{"index": 0, "delta": {"content": "a"},
                  "logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}]},
    {"choices": [{"index": 0, "delta": {"content": "b"},
                  "logprobs": {"content": [{"token": "b", "logprob": -1.5}]}}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
]  # fmt: skip
STREAM = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in EVENTS)
STREAM += b"data: [DONE]\n\n"


class Upstream(BaseHTTPRequestHandler):
    """A model server that remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str], bytes]]
    refuses_logprobs = False
    pause_s = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, dict(self.headers), body))
        request = json.loads(body)
        if self.refuses_logprobs and "logprobs" in request:
            self._answer(400, b"{}")
        elif request.get("stream"):
            self._stream()
        else:
            self._answer(200, json.dumps(ANSWER).encode())

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers), b""))
        self._answer(200, b'{"data":[]}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Request-Id", "r1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in STREAM.split(b"\n\n")[:-1]:
            data = piece + b"\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(self.pause_s)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class World:
    def __init__(self) -> None:
        self.handler = type("U", (Upstream,), {"asked": []})
        self.upstream = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.upstream.daemon_threads = True
        self.said: list[str] = []
        self.steps: list[dict[str, Any]] = []
        self.connections: list[http.client.HTTPConnection] = []
        self.advice: Any = AdviceResult(advice="continue")
        self.reporter = Reporter(self._report, self.said.append)
        port = self.upstream.server_address[1]
        self.proxy = LlmProxy(
            f"http://127.0.0.1:{port}/base/v1", ("127.0.0.1", 0), self.reporter, stop_refuses=True
        )
        for serve in (self.upstream.serve_forever, self.proxy.serve_forever):
            threading.Thread(target=serve, daemon=True).start()

    def _report(self, fields: dict[str, Any]) -> AdviceResult:
        self.steps.append(fields)
        if isinstance(self.advice, Exception):
            raise self.advice
        assert isinstance(self.advice, AdviceResult)
        return self.advice

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
        connection = self.connect(self.proxy.address)
        connection.request("POST", path, json.dumps(body), {"Authorization": KEY})
        return connection.getresponse()

    def connect(self, address: tuple[str, int]) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*address, timeout=20)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.proxy.close()
        self.upstream.shutdown()
        self.upstream.server_close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def wait_for_steps(world: World, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(world.steps) < count:
        assert time.monotonic() < deadline, world.said
        time.sleep(0.005)


def test_an_answer_passes_untouched_and_is_a_step(world: World) -> None:
    response = world.post({"model": "m", "messages": []})
    assert (response.status, response.headers["X-Request-Id"]) == (200, "r1")
    assert json.loads(response.read()) == ANSWER
    wait_for_steps(world, 1)
    assert world.steps == [
        {"step": 0, "prompt_tokens": 7, "completion_tokens": 1, "text": "Hi",
         "tool_calls": ["bash"], "logprobs": [-0.25]}
    ]  # fmt: skip
    path, headers, body = world.handler.asked[0]
    assert path == "/base/v1/chat/completions"
    assert headers["Authorization"] == KEY
    assert json.loads(body) == {"model": "m", "messages": [], "logprobs": True}


def test_a_stream_passes_byte_by_byte_as_it_comes(world: World) -> None:
    world.handler.pause_s = 0.2
    began = time.monotonic()
    response = world.post({"stream": True})
    first = response.read1(10)
    early_s = time.monotonic() - began
    assert first + response.read() == STREAM
    assert early_s < 0.5 < time.monotonic() - began
    wait_for_steps(world, 1)
    assert (world.steps[0]["text"], world.steps[0]["logprobs"]) == ("ab", [-0.5, -1.5])


def test_an_upstream_without_log_probabilities_is_asked_once(world: World) -> None:
    world.handler.refuses_logprobs = True
    for _ in range(2):
        response = world.post({"messages": []})
        assert response.status == 200
        response.read()
    bodies = [json.loads(body) for _, _, body in world.handler.asked]
    assert ["logprobs" in body for body in bodies] == [True, False, False]
    assert world.said == ["the upstream gives no log probabilities"]


def test_other_requests_pass_and_are_no_steps(world: World) -> None:
    connection = world.connect(world.proxy.address)
    connection.request("GET", "/v1/models?x=1", headers={"Authorization": KEY})
    assert connection.getresponse().read() == b'{"data":[]}'
    assert world.handler.asked[0][0] == "/base/v1/models?x=1"
    world.post({"input": "x"}, "/v1/embeddings").read()
    assert json.loads(world.handler.asked[1][2]) == {"input": "x"}
    assert world.steps == []


def test_after_a_stop_completions_are_refused_where_that_is_asked_for(world: World) -> None:
    world.advice = AdviceResult(advice="stop", reason="it loops")
    world.post({"messages": []}).read()
    wait_for_steps(world, 1)
    world.reporter.stopped.wait(20)
    response = world.post({"messages": []})
    assert response.status == 403
    assert "advised this run to stop" in json.loads(response.read())["error"]["message"]
    assert world.said == ["stop: it loops"]


def test_without_a_daemon_calls_pass_and_one_line_is_said(world: World) -> None:
    world.advice = RemoteError("no_session", "no session", field="session")
    for _ in range(3):
        assert world.post({"messages": []}).status == 200
    wait_for_steps(world, 3)
    assert [step["step"] for step in world.steps] == [0, 0, 0]
    time.sleep(0.05)
    assert world.said == ["cannot report steps: no session"]


def test_an_upstream_that_is_gone_is_a_502_without_the_key(world: World) -> None:
    world.upstream.shutdown()
    world.upstream.server_close()
    response = world.post({"messages": []})
    assert response.status == 502
    assert "secret" not in response.read().decode() + "".join(world.said)
    world.upstream = ThreadingHTTPServer(("127.0.0.1", 0), world.handler)
    threading.Thread(target=world.upstream.serve_forever, daemon=True).start()


def test_it_adds_milliseconds_at_most(world: World) -> None:
    def took(address: tuple[str, int], path: str) -> float:
        connection = world.connect(address)
        times = []
        for _ in range(60):
            began = time.perf_counter()
            connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
        return sorted(times)[30]

    host, port = world.upstream.server_address[:2]
    direct = took((str(host), int(port)), "/base/v1/chat/completions")
    through = took(world.proxy.address, "/v1/chat/completions")
    assert through - direct < 0.05


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        ("/v1/chat/completions", {"a": 1}, {"a": 1, "logprobs": True}),
        ("/v1/completions", {}, {"logprobs": 0}),
        ("/v1/chat/completions", {"logprobs": False}, None),
        (
            "/v1/chat/completions", {"stream": True},
            {"stream": True, "logprobs": True, "stream_options": {"include_usage": True}},
        ),
        (
            "/v1/chat/completions", {"stream": True, "logprobs": True, "stream_options": {}},
            None,
        ),
        ("/v1/embeddings", {}, None),
    ],
)  # fmt: skip
def test_what_the_client_says_is_kept(path: str, body: Any, more: Any) -> None:
    changed = asking_for_more(path, json.dumps(body).encode())
    assert (None if changed is None else json.loads(changed)) == more


def test_a_plain_completion_is_a_step_too() -> None:
    answer = {
        "choices": [{"text": "x", "logprobs": {"token_logprobs": [None, -0.5]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    told = step_fields("application/json", json.dumps(answer).encode())
    assert told == {
        "prompt_tokens": 1, "completion_tokens": 1, "text": "x", "tool_calls": [],
        "logprobs": [-0.5],
    }  # fmt: skip


def test_without_usage_it_is_no_step() -> None:
    assert step_fields("application/json", b'{"choices":[]}') is None
    assert step_fields("text/event-stream", b"data: [DONE]\n\n") is None


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "usage", "delta", "message", "logprobs", "content", "index",
                         "tool_calls", "function", "name", "prompt_tokens", "token_logprobs",
                         "completion_tokens", "logprob"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(answer=json_like, body=st.binary(max_size=30), stream=st.booleans())
def test_no_answer_breaks_the_proxy(answer: Any, body: bytes, stream: bool) -> None:
    kind = "text/event-stream" if stream else "application/json"
    step_fields(kind, b"data: " * stream + json.dumps(answer).encode())
    step_fields(kind, body)
    asking_for_more("/chat/completions", body)


@pytest.mark.parametrize("text", ["8788", "host:", "host:x", ":1", "host:99999"])
def test_listen_addresses_are_checked(text: str) -> None:
    with pytest.raises(InvalidValueError, match="--listen"):
        split_listen(text)


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x/", "http://"])
def test_upstream_addresses_are_checked(url: str) -> None:
    reporter = Reporter(lambda _fields: AdviceResult(advice="continue"), lambda _text: None)
    with pytest.raises(InvalidValueError, match="--upstream"):
        LlmProxy(url, ("127.0.0.1", 0), reporter, stop_refuses=False)
    reporter.close()
