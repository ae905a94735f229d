# SPDX-License-Identifier: Apache-2.0
"""What tool calls offer beyond subprocess: output as it comes, retries, a decorator, an end."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon

from agentcgroup import Client
from agentcgroup.client import ToolCall
from agentcgroup.errors import InvalidValueError


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.agent_path, timeout_s=10) as made:
        yield made


def test_output_comes_as_it_is_written(client: Client) -> None:
    heard: list[tuple[str, str]] = []
    script = "echo one; read answer; echo $answer; echo two >&2; printf '\\303'; printf '\\244'"
    with client.tool_call() as call:
        result = call.run(
            ["sh", "-c", script], input="yes\n", text=True, encoding="utf-8",
            on_output=lambda name, piece: heard.append((name, piece)),
        )  # fmt: skip
        raw = call.run(["echo", "x"], on_output=lambda *_: None)
        with pytest.raises(subprocess.TimeoutExpired):
            call.run(["sh", "-c", "echo x; sleep 60"], timeout=0.2, on_output=lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            call.run(["echo", "x"], on_output=lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]
    assert (result.stdout, result.stderr) == ("one\nyes\nä", "two\n")
    assert "".join(piece for name, piece in heard if name == "stdout") == result.stdout
    assert ("stderr", "two\n") in heard
    assert (raw.stdout, raw.stderr) == (b"x\n", b"")


def test_a_retry_says_what_it_repeats(daemon: FakeDaemon, client: Client) -> None:
    daemon.outcomes["c-1"] = {
        "call": "c-1", "session": "s", "reason": "oom_killed",
        "retry": {"worthwhile": True, "intent": {"memory": "3G"}},
    }  # fmt: skip
    daemon.outcomes["c-2"] = {
        "call": "c-2", "session": "s", "reason": "oom_killed", "retry": {"worthwhile": False},
    }  # fmt: skip
    result = client.run(["false"], {"memory": "1G", "label": "x"}, retries=5)
    assert result.call.id == "c-2"
    first, second = (params["intent"] for params in daemon.params("tool.begin"))
    assert (first["memory"], second["memory"]) == (1 << 30, 3 << 30)
    assert (second["label"], second["retry_of"]) == ("x", "c-1")
    assert "retry_of" not in first
    client.run(["true"], retries=3)
    assert len(daemon.params("tool.begin")) == 3


def test_end_from_another_thread(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call() as call:
        process = call.popen(["sleep", "60"])
        ender = threading.Thread(target=call.end)
        ender.start()
        ender.join(20)
        process.kill()  # the real daemon does
        process.wait()
        assert call.end() is call.outcome is not None
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_decorated_functions(daemon: FakeDaemon, client: Client) -> None:
    @client.tool({"memory": "1G"}, timeout_s=5)
    def unit_tests(call: ToolCall, code: int) -> int:
        """Doc."""
        return call.run(["sh", "-c", f"exit {code}"]).returncode

    assert [unit_tests(0), unit_tests(code=4)] == [0, 4]
    assert unit_tests.__doc__ == "Doc."
    labels = [params["intent"]["label"] for params in daemon.params("tool.begin")]
    assert labels == ["unit_tests", "unit_tests"]
    assert [params["exit_code"] for params in daemon.params("tool.end")] == [0, 4]
    with pytest.raises(InvalidValueError, match="momery"):
        client.tool(momery="1G")


def test_an_interrupted_begin_leaves_no_call(daemon: FakeDaemon, client: Client) -> None:
    def interrupt(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        answer = FakeDaemon._tool_begin(daemon, params, fd)
        signal.raise_signal(signal.SIGALRM)
        time.sleep(0.5)
        return answer

    def raised(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    daemon.handlers["tool.begin"] = interrupt
    before = signal.signal(signal.SIGALRM, raised)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.run(["sleep", "60"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert daemon.methods() == ["tool.begin", "tool.resume"]
    assert list(daemon.outcomes) == ["c-1"]
