# SPDX-License-Identifier: Apache-2.0
"""The real docker SDK against an engine that answers what the test wants, on a Unix socket."""

from __future__ import annotations

import gc
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.errors import InvalidValueError, NotSupportedError
from agentcgroup.sandbox.docker import Engine
from agentcgroup.sandbox.labels import LabelFilter

# The SDK leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
ID = "0123456789ab" * 5
BOX = {
    "Id": ID, "Name": "/box", "Config": {"Labels": {"a": "b"}, "More": 1},
    "State": {"Running": True, "Paused": False, "Pid": 4711, "Status": "running"},
}  # fmt: skip


class Answers(socketserver.ThreadingUnixStreamServer):
    """`said`: the JSON of every path, without the API's version in front."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.said: dict[str, Any] = {
            "/version": {"ApiVersion": "1.45", "MinAPIVersion": "1.24"},
            "/info": {"CgroupVersion": "2"},
            "/containers/box/json": BOX,
            f"/containers/{ID}/json": BOX,
            "/containers/json": [{"Id": ID}],
        }
        self.asked: list[str] = []
        self.events: list[Any] = []
        self.go_on = threading.Event()
        super().__init__(path, Handler)


class Handler(BaseHTTPRequestHandler):
    server: Answers
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "a Unix socket"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        path = "/" + path.partition("/v")[2].partition("/")[2] if path.startswith("/v1") else path
        if path == "/events":
            self._stream()
            return
        found = self.server.said.get(path)
        body = json.dumps({"message": "No such container"} if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server.events:
            line = json.dumps(event).encode()
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()
        self.server.go_on.wait(10)


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    with Answers(str(tmp_path / "docker.sock")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def engine(answers: Answers) -> Iterator[Engine]:
    made = Engine(f"unix://{answers.server_address!s}")
    yield made
    made.close()


def test_a_container_as_inspect_tells_it(engine: Engine) -> None:
    box = engine.get("box")
    assert (box.id, box.name, box.pid, box.labels) == (ID, "box", 4711, {"a": "b"})
    assert box.state.running and not box.state.paused
    assert [found.name for found in engine.running(LabelFilter("a"))] == ["box"]


def test_one_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(InvalidValueError) as caught:
        engine.get("nobody")
    assert caught.value.field == "container" and "docker ps" in caught.value.remedy


def test_one_that_went_between_two_questions_is_left_out(engine: Engine, answers: Answers) -> None:
    answers.said["/containers/json"] = [{"Id": "gone"}, {"Id": ID}]
    assert [found.name for found in engine.running()] == ["box"]


@pytest.mark.parametrize("info", [{"CgroupVersion": "1"}, {}])
def test_without_cgroup_v2(engine: Engine, answers: Answers, info: dict[str, str]) -> None:
    answers.said["/info"] = info
    for _ in range(2):
        with pytest.raises(NotSupportedError, match="unified_cgroup_hierarchy"):
            engine.get("box")
    answers.said["/info"] = {"CgroupVersion": "2"}
    assert engine.get("box").name == "box"


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="no Docker engine answers at unix://"):
        Engine(f"unix://{tmp_path}/nobody.sock").running()
    gc.collect()


@pytest.mark.parametrize("missing", ["Id", "State", "Config"])
def test_an_answer_of_an_unknown_shape(engine: Engine, answers: Answers, missing: str) -> None:
    answers.said["/containers/box/json"] = {k: v for k, v in BOX.items() if k != missing}
    with pytest.raises(NotSupportedError, match=f"without {missing}"):
        engine.get("box")


def test_events_until_it_is_closed(engine: Engine, answers: Answers) -> None:
    answers.events = [
        {"Action": "start", "Actor": {"ID": ID, "Attributes": {"name": "box"}}},
        {"Action": "exec_create: sh", "Actor": {"ID": ID}},
        {"Action": "start"},
        {"Action": "die", "Actor": {"ID": ID}},
    ]
    events = engine.events()
    heard = [next(events), next(events)]
    assert [(event.action, event.actor.id) for event in heard] == [("start", ID), ("die", ID)]
    closer = threading.Timer(0.1, engine.close)
    closer.start()
    # Asleep in a read, it is woken by the close.
    with pytest.raises(StopIteration):
        next(events)
    closer.join()
