# SPDX-License-Identifier: Apache-2.0
"""SDK and command line against a real daemon and a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import PrivateDaemon, alive, until

from agentcgroup import Client
from agentcgroup.errors import RefusedError, RemoteError
from agentcgroup.types.outcomes import Level, Outcome, Reason

pytestmark = pytest.mark.guest

HOG = "x = bytearray({mib} << 20); x[::4096] = b'x' * len(x[::4096]); {then}"
WHERE = ["cat", "/proc/self/cgroup"]
AGENT = """
import json, sys
from agentcgroup import Client
client = Client(require=True)
with client.tool_call(memory="64M", label="from the agent") as call:
    result = call.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
print(json.dumps({
    "agent": open("/proc/self/cgroup").read(), "tool": result.stdout, "nested": call.info.nested,
    "session": client.session().name, "outcome": call.outcome.model_dump(mode="json"),
}))
sys.exit(7)
"""


def hog(mib: int, then: str = "pass") -> list[str]:
    return [sys.executable, "-c", HOG.format(mib=mib, then=then)]


def cli(daemon: PrivateDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
    return subprocess.run(
        ["agentcgroup", *arguments],
        capture_output=True, text=True, env=env, timeout=400, check=False,
    )  # fmt: skip


def cli_json(daemon: PrivateDaemon, *arguments: str) -> Any:
    shown = cli(daemon, *arguments, "--json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def outcome_of(result: Any) -> Outcome:
    assert isinstance(result.outcome, Outcome)
    return result.outcome


def test_commands_of_a_call_share_its_leaf(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    with client.tool_call(memory="64M", pids_max=50, session="s") as call:
        first = call.run(WHERE, capture_output=True, text=True)
        second = call.run(WHERE, capture_output=True, text=True)
        leaf = daemon.leaf(call.id or "")
        assert (leaf / "pids.max").read_text() == "50\n"
    expected = f"0::/{daemon.root.name}/s/tools/{call.id}\n"
    assert (first.stdout, second.stdout) == (expected, expected)
    outcome = outcome_of(call)
    assert outcome.reason is Reason.COMPLETED and outcome.message == ""
    assert outcome.peak_memory_bytes and outcome.exit_code == 0
    assert not leaf.exists()
    assert client.outcome(outcome.call) == outcome


@pytest.mark.smoke
def test_hog_is_killed_and_explained(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    result = client.run(hog(200), {"memory": "32M", "memory_max": "64M"}, session="s")
    outcome = outcome_of(result)
    assert result.returncode == -9
    assert (outcome.reason, outcome.level) == (Reason.OOM_KILLED, Level.CALL)
    assert outcome.memory_limit_bytes == 64 << 20
    assert outcome.biggest_process is not None and outcome.message
    told = cli_json(daemon, "why", outcome.call)
    assert told == outcome.model_dump(mode="json")
    words = cli(daemon, "why", outcome.call).stdout
    assert "was killed because memory ran out" in words and outcome.message in words


@pytest.mark.long
def test_run_outside_of_sessions_is_ephemeral(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    shown = cli(daemon, "run", "--memory", "64M", "--", *WHERE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"/{daemon.root.name}/run-" in shown.stdout and "/tools/c" in shown.stdout
    assert client.run(["sh", "-c", "exit 3"]).returncode == 3
    until(lambda: not client.sessions(), "ephemeral sessions end")
    assert cli(daemon, "run", "--memory-max", "48M", "--", *hog(200)).returncode == 137
    assert cli(daemon, "run", "--timeout", "1", "--", "sleep", "60").returncode == 124


def test_agent_in_a_session_of_its_own(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    shown = cli(daemon, "session", "run", "--name", "mine", "--memory", "300M", "--priority",
                "high", "--", sys.executable, "-c", AGENT)  # fmt: skip
    assert shown.returncode == 7, shown.stderr
    told = json.loads(shown.stdout)
    base = f"0::/{daemon.root.name}/mine"
    assert told["agent"] == f"{base}/agent\n"
    assert told["tool"] == f"{base}/tools/{told['outcome']['call']}\n"
    assert (told["session"], told["nested"]) == ("mine", False)
    assert told["outcome"]["label"] == "from the agent"
    until(lambda: not client.sessions(), "the session ends with its agent")


@pytest.mark.agents
@pytest.mark.long
def test_agent_within_a_call_is_nested(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
    script = AGENT.replace('"session": client.session().name', '"session": client.budget().session')
    with client.tool_call(session="s") as call:
        inner = call.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
        assert inner.returncode == 7, inner.stderr
        again = call.run(WHERE, capture_output=True, text=True)
    told = json.loads(inner.stdout)
    assert told["nested"] and told["session"] == "s"
    assert told["tool"] == told["agent"] == again.stdout
    assert outcome_of(call).exit_code == 0


@pytest.mark.long
def test_restart_of_the_daemon_in_mid_call(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    with client.tool_call(memory="64M", session="s") as call:
        process = call.popen(["sleep", "600"])
        before = Path(f"/proc/{process.pid}/cgroup").read_text()
        daemon.kill()
        daemon.start()
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == before
        second = call.run([*WHERE], capture_output=True, text=True)
        assert second.stdout == before
        daemon.kill()
        threading.Timer(1.0, daemon.start).start()
    outcome = outcome_of(call)
    assert (outcome.reason, outcome.call) == (Reason.COMPLETED, call.id)
    assert process.wait(10) == -9  # what still ran when the call ended
    assert client.outcome(outcome.call) == outcome
    assert daemon.orphans() == []


@pytest.mark.long
def test_refusals_name_the_remedy(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="128M")
    with client.tool_call(memory="4G", session="s") as call, pytest.raises(RemoteError) as refused:
        call.run(["touch", str(daemon.base / "ran")])
    assert refused.value.remedy
    if isinstance(refused.value, RefusedError):
        assert call.outcome is refused.value.outcome
    assert not (daemon.base / "ran").exists()
    with pytest.raises(RemoteError) as missing:
        client.run(["true"], session="nowhere")
    assert missing.value.kind == "not_found"
    shown = cli(daemon, "session", "create", "--memory", "900G")
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1 and "memory" in shown.stderr
    assert [s.name for s in client.sessions()] == ["s"]


@pytest.mark.long
def test_attach_and_detach(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    agent = subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
    try:
        origin = Path(f"/proc/{agent.pid}/cgroup").read_text()
        attached = cli_json(daemon, "attach", "pid", str(agent.pid), "--name", "a",
                            "--memory", "256M")  # fmt: skip
        assert attached["session"]["name"] == "a"
        place = f"0::/{daemon.root.name}/a/agent\n"
        assert Path(f"/proc/{agent.pid}/cgroup").read_text() == place
        assert len(client.session("a").agent_pids) == 2
        assert cli_json(daemon, "session", "update", "a", "--priority", "low")["session"][
            "priority"
        ] == "low"  # fmt: skip
        assert cli(daemon, "detach", "a").returncode == 0
        assert Path(f"/proc/{agent.pid}/cgroup").read_text() == origin
        assert alive(agent.pid) and client.sessions() == []
    finally:
        subprocess.run(["pkill", "-P", str(agent.pid)], check=False)
        agent.kill()
        agent.wait()


@pytest.mark.long
def test_operators_commands(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="256M", labels={"team": "x"})
    assert cli_json(daemon, "session", "list")["sessions"][0]["labels"] == {"team": "x"}
    assert cli_json(daemon, "session", "show", "s")["session"]["memory_bytes"] == 256 << 20
    status = cli_json(daemon, "status")
    assert status["mode"] == "enforce" and status["sessions"][0]["name"] == "s"
    assert "256 MiB" in cli(daemon, "status").stdout
    report = cli_json(daemon, "doctor")
    answers = {c["name"]: c["answer"] for c in report["capabilities"]}
    assert report["source"] == "daemon"
    assert answers["memory.max"] == answers["cgroup.kill"] == "yes"
    assert cli_json(daemon, "session", "end", "s") == {"session": "s", "outcomes": []}
    assert cli(daemon, "session", "show", "s").returncode == 2


def test_events_are_followed(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="256M")
    stream = Client(str(daemon.socket)).events("s", kinds=["call_begin", "call_end"])
    seen: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: seen.extend(next(stream) for _ in range(2)))
    reader.start()
    until(lambda: client.status()["server"], "the subscription is there")
    while reader.is_alive():
        client.run(["true"], session="s")
        reader.join(0.2)
    assert {record["kind"] for record in seen} == {"call_begin", "call_end"}
    assert all(record["session"] == "s" and record["call"] for record in seen)


@pytest.mark.long
def test_doctor_without_a_daemon_leaves_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "AGENTCGROUP_SOCKET": str(tmp_path / "none.sock")}
    before = {p.name for p in Path("/sys/fs/cgroup").iterdir()}
    shown = subprocess.run(
        ["agentcgroup", "doctor", "--json"], capture_output=True, text=True, env=env, check=False
    )
    assert shown.returncode == 0, shown.stderr
    answers = {c["name"]: c["answer"] for c in json.loads(shown.stdout)["capabilities"]}
    assert answers["memory.max"] == "yes" and answers["daemon"] == "no"
    assert {p.name for p in Path("/sys/fs/cgroup").iterdir()} == before
