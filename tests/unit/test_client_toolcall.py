# SPDX-License-Identifier: Apache-2.0
"""with client.tool_call(…): placed before it runs, ended with an outcome, never stuck."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import DropError, FakeDaemon

from agentcgroup import Client, Intent
from agentcgroup import log as agentcgroup_log
from agentcgroup.client import call_dialog, channels, child
from agentcgroup.errors import (
    DaemonUnavailableError,
    IntentRejectedError,
    InvalidValueError,
    RefusedError,
    RemoteError,
)
from agentcgroup.protocol.errors import Kind
from agentcgroup.types.outcomes import Reason

WRITABLE = """
import fcntl, os
names = [int(name) for name in os.listdir("/proc/self/fd")]
fds = [fd for fd in names if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
print([fd for fd in fds if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE])
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.agent_path, timeout_s=10) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_dialog, "RETRY_S", 0.2)
    monkeypatch.setattr(channels, "RETRY_S", 0.2)
    monkeypatch.setattr(agentcgroup_log, "_said", set())


def test_begin_precedes_the_command(daemon: FakeDaemon, client: Client, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    def begin(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        assert fd is not None
        assert not proof.exists()
        return FakeDaemon._tool_begin(daemon, params, fd)

    daemon.handlers["tool.begin"] = begin
    with client.tool_call(memory="2G", timeout_s="10m") as call:
        assert daemon.methods() == []
        result = call.run(["touch", str(proof)])
    assert (result.returncode, proof.exists()) == (0, True)
    assert daemon.methods() == ["tool.begin", "tool.end"]
    (sent,) = daemon.params("tool.begin")
    assert sent["intent"] == {
        "memory": 2 << 30, "timeout_s": 600.0, "command": f"touch {proof}",
    }  # fmt: skip
    assert daemon.params("tool.end") == [{"call": "c-1", "exit_code": 0}]
    assert call.outcome is result.outcome is not None
    assert call.outcome.reason is Reason.COMPLETED
    assert call.info is not None and call.info.limits["memory_high_bytes"] == 1 << 30


def test_pidfd_is_the_process_that_runs(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call() as call:
        first = call.run(["sh", "-c", "echo $$"], capture_output=True, text=True)
        second = call.run(["sh", "-c", "echo $$"], capture_output=True, text=True)
    placed = [(m, pid) for _, m, _, pid in daemon.requests if pid is not None]
    assert placed == [("tool.begin", int(first.stdout)), ("tool.update", int(second.stdout))]


@pytest.mark.parametrize("launcher", ["shell", "many descriptors"])
def test_subprocess_options_work(
    client: Client, tmp_path: Path, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "static_launcher", lambda: None)
    extra = [os.open("/dev/null", os.O_RDONLY) for _ in range(12 if "many" in launcher else 0)]
    read_fd, write_fd = os.pipe()
    try:
        with client.tool_call() as call:
            shown = call.run(
                ["sh", "-c", "pwd; cat; echo $MARK >&2; exit 3"],
                input="hello", capture_output=True, text=True, cwd=tmp_path,
                env={**os.environ, "MARK": "m"},
            )  # fmt: skip
            passed = call.run("echo x >&$FD", shell=True, pass_fds=[write_fd],
                              env={"FD": str(write_fd), "PATH": os.defpath})  # fmt: skip
        if write_fd <= 9:
            assert passed.returncode == 0
            assert os.read(read_fd, 9) == b"x\n"
    finally:
        for fd in (*extra, read_fd, write_fd):
            os.close(fd)
    assert shown.stdout == f"{tmp_path}\nhello"
    assert (shown.stderr, shown.returncode) == ("m\n", 3)
    assert shown.args[0] == "sh"


def test_command_inherits_no_write_end(client: Client) -> None:
    """Nobody but us may hold it: its end is how a launcher learns that we are gone."""
    with client.tool_call() as call:
        ours = call.run([sys.executable, "-c", WRITABLE], capture_output=True, text=True)
    assert ours.stdout == "[]\n", ours.stderr


def test_timeout_check_and_signals(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call() as call, pytest.raises(subprocess.TimeoutExpired):
        call.run(["sleep", "60"], timeout=0.2)
    assert daemon.params("tool.end") == [{"call": "c-1", "signal": 9}]
    with client.tool_call() as call, pytest.raises(subprocess.CalledProcessError):
        call.run(["false"], check=True)
    daemon.outcomes["c-3"] = {
        "call": "c-3", "session": "s", "reason": "oom_killed", "message": "too big",
    }  # fmt: skip
    with pytest.raises(subprocess.CalledProcessError) as failed:
        client.run(["false"], {"memory": "1G"}, check=True)
    assert failed.value.__notes__ == ["too big"]
    result = client.run("exit 7", shell=True)
    assert (result.returncode, result.outcome and result.outcome.exit_code) == (7, 7)


def test_popen_still_running_at_the_end(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call() as call:
        process = call.popen(["sleep", "60"])
    assert daemon.params("tool.end") == [{"call": "c-1"}]
    process.kill()  # the real daemon does
    process.wait()
    with pytest.raises(RuntimeError, match="has ended"):
        call.popen(["true"])


def test_missing_program_begins_nothing(daemon: FakeDaemon, client: Client, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for argv, error in (
        (["no-such-program"], FileNotFoundError),
        (["./plain"], PermissionError),
        ([], InvalidValueError),
    ):
        with client.tool_call() as call, pytest.raises(error):
            call.run(argv, cwd=tmp_path)
    with client.tool_call() as call, pytest.raises(InvalidValueError, match="preexec_fn"):
        call.run(["true"], preexec_fn=print)
    assert daemon.methods() == []
    assert call.outcome is None


def test_intent_is_checked_before_anything(client: Client) -> None:
    with pytest.raises(InvalidValueError, match=r"intent\.memory.*2GBs"):
        client.tool_call(memory="2GBs")
    with pytest.raises(InvalidValueError, match=r"intent\.momery"):
        client.tool_call({"momery": "2G"})
    with pytest.raises(InvalidValueError, match="give an Intent"):
        client.tool_call("2G")  # type: ignore[arg-type]
    base = Intent(memory=1 << 30, label="x")
    assert client.tool_call(base, memory="2G").intent == Intent(memory=2 << 30, label="x")


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.WAIT_TIMEOUT, Kind.OVER_BUDGET, Kind.TOO_MANY])
def test_refusal_carries_the_outcome(
    daemon: FakeDaemon, client: Client, kind: Kind, tmp_path: Path
) -> None:
    daemon.refuse("tool.begin", kind, field="intent.memory", remedy="ask for less")
    with client.tool_call(memory="1G") as call, pytest.raises(RefusedError) as refused:
        call.run(["touch", str(tmp_path / "ran")])
    assert not (tmp_path / "ran").exists()
    assert (refused.value.kind, refused.value.exit_code) == (kind, 75)
    assert call.outcome is refused.value.outcome
    assert call.outcome is not None and call.outcome.reason is Reason.REFUSED
    assert call.outcome.message == "cannot do tool.begin ask for less"
    assert "tool.end" not in daemon.methods()


def test_rejected_intent_and_other_errors(daemon: FakeDaemon, client: Client) -> None:
    daemon.refuse("tool.begin", Kind.INVALID_PARAMS, field="intent.cpu", value=99, remedy="less")
    with client.tool_call(cpu=99) as call, pytest.raises(IntentRejectedError, match="less"):
        call.run(["true"])
    daemon.refuse("tool.begin", Kind.TARGET_REFUSED)
    with client.tool_call() as call, pytest.raises(RemoteError) as refused:
        call.run(["true"])
    assert refused.value.kind == "target_refused"


def test_outside_any_session_the_admin_socket_is_asked(daemon: FakeDaemon, client: Client) -> None:
    daemon.refuse("tool.begin", Kind.NO_SESSION, once=True)
    assert client.run(["true"]).returncode == 0
    used = [(socket, method) for socket, method, _, _ in daemon.requests if "tool" in method]
    assert used == [("agent", "tool.begin"), ("admin", "tool.begin"), ("admin", "tool.end")]


def test_without_admin_socket_the_refusal_stays(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path, admin=False) as daemon, Client(daemon.agent_path) as client:
        daemon.refuse("tool.begin", Kind.NO_SESSION)
        with pytest.raises(RemoteError) as refused:
            client.run(["true"])
    assert refused.value.kind == "no_session"


def test_nested_call_places_nothing_twice(daemon: FakeDaemon, client: Client) -> None:
    daemon.handlers["tool.begin"] = lambda p, f: {
        **FakeDaemon._tool_begin(daemon, p, f), "nested": True,
    }  # fmt: skip
    with client.tool_call() as call:
        call.run(["true"])
        call.run(["true"])
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_absent_daemon_warns_once_and_runs(
    tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(str(tmp_path / "agent.sock"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            result = client.run(["sh", "-c", "exit 4"])
    assert len(caplog.records) == 1
    assert "run without limits" in caplog.text
    assert result.returncode == 4
    assert result.outcome is not None and result.outcome.reason is Reason.FAILED
    assert not result.call.managed and result.call.id is None
    with client.tool_call() as call:
        call.run(["true"])
        assert call.update({"memory": "1G"}) is None


def test_require_fails_without_daemon(tmp_path: Path, impatient: None) -> None:
    client = Client(str(tmp_path / "agent.sock"), require=True)
    with client.tool_call() as call, pytest.raises(DaemonUnavailableError) as absent:
        call.run(["touch", str(tmp_path / "ran")])
    assert absent.value.exit_code == 69
    assert not (tmp_path / "ran").exists()


def test_lost_begin_is_repeated_with_the_same_key(daemon: FakeDaemon, client: Client) -> None:
    losses = iter([True, False])

    def begin(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        answer = FakeDaemon._tool_begin(daemon, params, fd)
        if next(losses):
            raise DropError
        return answer

    daemon.handlers["tool.begin"] = begin
    result = client.run(["true"])
    first, second = daemon.params("tool.begin")
    assert first == second and result.call.id == "c-1"
    assert result.outcome is not None and result.outcome.ok


def test_shutting_down_is_waited_out(daemon: FakeDaemon, client: Client) -> None:
    daemon.refuse("tool.begin", Kind.SHUTTING_DOWN, once=True)
    daemon.refuse("tool.end", Kind.SHUTTING_DOWN, once=True)
    result = client.run(["true"])
    assert result.outcome is not None and result.outcome.ok
    assert daemon.methods() == ["tool.begin", "tool.begin", "tool.end", "tool.resume"]


def test_restart_in_mid_call_resumes(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call(key="mine") as call:
        call.run(["true"])
        daemon.stop()
        daemon.start()
        call.run(["sh", "-c", "exit 5"])
        daemon.stop()
        daemon.start()
    assert daemon.methods() == ["tool.begin", "tool.resume", "tool.update", "tool.resume"]
    assert daemon.params("tool.resume")[-1] == {"exit_code": 5}
    assert call.outcome is not None and call.outcome.exit_code == 5


def test_outcome_unknown_when_the_daemon_stays_away(
    daemon: FakeDaemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCGROUP_RECONNECT_S", "0.1")
    with client.tool_call() as call:
        call.run(["false"])
        daemon.stop()
    assert call.outcome is not None and call.outcome.reason is Reason.FAILED
    assert "could not say" in call.outcome.message


def test_threads_share_a_client(daemon: FakeDaemon, client: Client) -> None:
    barrier = threading.Barrier(8)
    codes: list[int | None] = []

    def work(number: int) -> None:
        with client.tool_call(label=str(number)) as call:
            barrier.wait(20)
            call.run(["sh", "-c", f"exit {number}"])
        codes.append(call.outcome.exit_code if call.outcome else None)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(codes, key=str) == list(range(8))
    assert len(daemon.keys) == 8
    assert daemon.connections <= 8


def test_forked_child_leaves_the_call_alone(daemon: FakeDaemon, client: Client) -> None:
    with client.tool_call() as call:
        call.run(["true"])
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[2])\n"
            "from agentcgroup import Client\n"
            "client = Client(sys.argv[1]); client.version()\n"
            "with client.tool_call() as call:\n"
            "    call.run(['true'])\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        assert client.version().protocol == 1\n"
            "if pid == 0: os._exit(0)\n"
            "sys.exit(os.waitpid(pid, 0)[1])\n"
        )
        root = str(Path(__file__).parents[2])
        argv = [sys.executable, "-c", code, daemon.agent_path, root]
        forked = subprocess.run(argv, check=False)
    assert forked.returncode == 0
    assert daemon.methods().count("tool.end") == 2
