# SPDX-License-Identifier: Apache-2.0
"""`hook run` with recorded events: what it answers, and that nothing it meets stops a command."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_fake import ROOT, Run, answer
from client_fake_daemon import FakeDaemon
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.errors import AgentCgroupError
from agentcgroup.integrations import hook_run
from agentcgroup.integrations.hook_rewrite import options_for
from agentcgroup.integrations.wishes import parse_pairs

pytest_plugins = ["cli_fixtures"]

RECORDED = ROOT / "tests" / "data-small" / "hooks"
MESSAGE = "Killed for memory: this tool call reached its memory limit of 256 MiB."
Hook = Callable[..., tuple[int, Any, str]]


@functools.cache
def built_program() -> str:
    subprocess.run(["make", "-s", "-C", ROOT / "sandboxes" / "shim"], check=True)
    return str(ROOT / "sandboxes" / "shim" / ".output" / "agentcgroup-run")


def recorded(name: str, **changes: Any) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    for field, value in changes.items():
        if field == "command":
            payload["tool_input"]["command"] = value
        else:
            payload[field] = value
    return payload


@pytest.fixture
def hook(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hook:
    """(exit status, answer, stderr) of one event; nobody's settings but the test's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "CLAUDE_PROJECT_DIR", "AGENTCGROUP_INTENT",
                 "AGENT_RESOURCE_HINT"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hook_run, "static_launcher", lambda: "/bin/agentcgroup-run")

    def runner(payload: Any, *arguments: str) -> tuple[int, Any, str]:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, err = run("hook", "run", *arguments)
        return code, json.loads(out) if out else None, err

    return runner


def test_claude_code_is_rewritten(daemon: FakeDaemon, hook: Hook) -> None:
    payload = recorded("claude-code-PreToolUse")
    code, said, err = hook(payload, "claude-code")
    command = (
        "cd api && /bin/agentcgroup-run --background keep --label toolu_01ABC123def456"
        " -c 'pytest -q'"
    )
    # The whole input: what is left out would be lost. No decision: that is the user's.
    specific = {
        "hookEventName": "PreToolUse",
        "updatedInput": {**payload["tool_input"], "command": command},
    }
    assert (code, said, err) == (0, {"hookSpecificOutput": specific}, "")
    assert daemon.methods() == []


def test_codex_is_rewritten(daemon: FakeDaemon, hook: Hook) -> None:
    code, said, _ = hook(recorded("codex-PreToolUse", command="pytest -q # agentcgroup: memory=2G"))
    specific = said["hookSpecificOutput"]
    assert code == 0 and specific["permissionDecision"] == "allow"
    assert specific["updatedInput"] == {
        "command": "/bin/agentcgroup-run --background keep --label call_8FhZ2 --memory 2147483648"
        " -c 'pytest -q # agentcgroup: memory=2G'"
    }
    assert said == hook(recorded("codex-PreToolUse", command="pytest -q # agentcgroup: memory=2G"),
                        "codex", "--mode", "rewrite")[1]  # fmt: skip


def test_high_means_what_is_free(daemon: FakeDaemon, hook: Hook) -> None:
    answer(daemon, "session.budget", {
        "session": "s", "memory_bytes": 1 << 32, "memory_free_bytes": 3 << 30, "granted_bytes": 0,
        "memory_current_bytes": 0, "cpu": None, "calls": 0, "queued": 0,
    })  # fmt: skip
    _, said, _ = hook(recorded("codex-PreToolUse", command="AGENT_RESOURCE_HINT=memory:high make"))
    assert f"--memory {3 << 30} " in said["hookSpecificOutput"]["updatedInput"]["command"]


@pytest.mark.parametrize("said", ["memory=2Q", "memry=1G", "memory=2G memory_max=1G"])
def test_a_wrong_wish_is_told_to_the_model_and_the_command_runs(
    daemon: FakeDaemon, hook: Hook, said: str
) -> None:
    code, heard, _ = hook(recorded("claude-code-PreToolUse", command=f"make # agentcgroup: {said}"))
    specific = heard["hookSpecificOutput"]
    assert code == 0 and "ignored" in specific["additionalContext"]
    assert "--memory" not in specific["updatedInput"]["command"]
    assert specific["updatedInput"]["command"].endswith(f" -c 'make # agentcgroup: {said}'")


RULES_OF_BOTH_KINDS = (
    '{"permissions": {"allow": null, "ask": ["Bash(agentcgroup-run:*)", "Bash(rm *)"]}}'
)


@pytest.mark.parametrize(
    ("agent", "file", "text"),
    [
        ("claude-code", ".claude/settings.json", '{"permissions": {"deny": ["Bash(curl:*)"]}}'),
        ("claude-code", ".claude/settings.json", '{"permissions": {"allow": ["Bash(make *)"]}}'),
        ("claude-code", ".claude/settings.json", RULES_OF_BOTH_KINDS),
        ("codex", ".codex/rules/default.rules", "prefix_rule(pattern=['git'])"),
    ],
)
def test_rules_that_read_command_lines_keep_seeing_them(
    daemon: FakeDaemon, hook: Hook, tmp_path: Path, agent: str, file: str, text: str
) -> None:
    rules = tmp_path / "home" / file
    rules.parent.mkdir(parents=True, exist_ok=True)
    rules.write_text(text)
    answer(daemon, "intent.declare", {"intent_id": "i1"})
    assert hook(recorded(f"{agent}-PreToolUse"), agent) == (0, None, "")
    assert daemon.methods() == []  # nothing was said
    payload = recorded(f"{agent}-PreToolUse", command="make # agentcgroup: memory=2G")
    assert hook(payload, agent) == (0, None, "")
    (sent,) = daemon.params("intent.declare")
    assert sent["intent"] == {"memory": 2 << 30, "label": payload["tool_use_id"]}
    assert "updatedInput" in hook(payload, agent, "--mode", "rewrite")[1]["hookSpecificOutput"]


@pytest.mark.parametrize("mode", ["auto", "declare"])
def test_settings_without_command_rules_do_not_matter(
    daemon: FakeDaemon, hook: Hook, tmp_path: Path, mode: str
) -> None:
    settings = tmp_path / "home" / ".claude" / "settings.json"
    settings.parent.mkdir(parents=True)
    rules = '["Bash", "Read(x)", "Bash(/opt/agentcgroup-run --label:*)"]'
    settings.write_text(f'{{"permissions": {{"allow": {rules}, "deny": []}}}}')
    _, said, _ = hook(recorded("claude-code-PreToolUse"), "--mode", mode)
    assert (said is not None) == (mode == "auto")


def ended(label: str | None = None, message: str = MESSAGE, age_s: float = 0.5) -> dict[str, Any]:
    return {
        "call": "c1", "session": "s", "state": "ended", "label": label,
        "outcome": {"call": "c1", "session": "s", "reason": "oom_killed", "message": message,
                    "label": label, "ended_epoch_s": time.time() - age_s},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({}, True),
        ({"age_s": 60.0}, False),
        ({"message": ""}, False),
        ({"label": "somebody else's"}, False),
        ({"label": "toolu_01ABC123def456", "age_s": 60.0}, True),
    ],
)
@pytest.mark.parametrize("event", ["PostToolUse", "PostToolUseFailure"])
def test_feedback_reaches_the_model(
    daemon: FakeDaemon, hook: Hook, call: dict[str, Any], told: bool, event: str
) -> None:
    answer(daemon, "tool.list", {"calls": [ended(**call)]})
    code, said, _ = hook(recorded(f"claude-code-{event}"), "claude-code")
    specific = {"hookEventName": event, "additionalContext": MESSAGE}
    assert (code, said) == (0, {"hookSpecificOutput": specific} if told else None)


def test_feedback_is_told_once(daemon: FakeDaemon, hook: Hook) -> None:
    answer(daemon, "tool.list", {"calls": [ended()]})
    read = recorded("codex-PostToolUse", tool_response=f"Killed\nagentcgroup: {MESSAGE}\n")
    assert hook(read) == (0, None, "")
    assert hook(recorded("codex-PostToolUse"))[1]["hookSpecificOutput"]["additionalContext"]
    managed = recorded("codex-PostToolUse", command="/bin/agentcgroup-run -- bash -c x")
    assert hook(managed) == (0, None, "")
    assert daemon.methods().count("tool.list") == 2


def test_other_tools_and_events_are_none_of_ours(daemon: FakeDaemon, hook: Hook) -> None:
    assert hook(recorded("claude-code-PreToolUse-Write")) == (0, None, "")
    assert hook(recorded("codex-PreToolUse", hook_event_name="Stop")) == (0, None, "")
    assert daemon.methods() == []


def test_without_a_daemon_the_command_stays_as_it_is(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTCGROUP_SOCKET", str(tmp_path / "none.sock"))
    assert hook(recorded("claude-code-PreToolUse")) == (0, None, "")
    assert hook(recorded("claude-code-PostToolUse")) == (0, None, "")


WHOLE = json.dumps(recorded("claude-code-PreToolUse")).encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"7", b"{}", b"[" * 100000, *(WHOLE[:n] for n in (1, 50, 200, -1)),
     json.dumps(recorded("claude-code-PreToolUse", tool_input="ls")).encode(),
     json.dumps(recorded("claude-code-PreToolUse", tool_input={"cmd": "ls"})).encode()],
)  # fmt: skip
def test_bad_events_are_told_and_stop_nothing(daemon: FakeDaemon, hook: Hook, data: bytes) -> None:
    code, said, err = hook(data)
    assert (code, said) == (1, None)
    assert err.startswith("agentcgroup hook: ") and err.count("\n") == 1
    assert "the command runs as it is" in err


@pytest.mark.parametrize("arguments", [("vi",), ("--mode", "x"), ("--bad",), ("codex", "codex")])
def test_wrong_arguments_do_not_block_either(
    daemon: FakeDaemon, hook: Hook, arguments: tuple[str, ...]
) -> None:
    code, said, err = hook(WHOLE, *arguments)
    assert (code, said) == (1, None) and "agentcgroup hook: " in err


def test_a_daemon_that_fails_stops_nothing(daemon: FakeDaemon, hook: Hook) -> None:
    from agentcgroup.protocol.errors import Kind

    daemon.refuse("tool.list", Kind.INTERNAL)
    code, said, err = hook(recorded("claude-code-PostToolUse"))
    assert (code, said) == (1, None) and "the command runs as it is" in err


def test_whole_round_trip(daemon: FakeDaemon, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewritten command in a shell as the agent would run it, through the real program."""
    monkeypatch.setattr(hook_run, "static_launcher", built_program)
    command = "cd / && pwd # agentcgroup: memory=64M\nexit 3"
    daemon.outcomes["c-1"] = {
        "call": "c-1", "session": "s", "reason": "oom_killed", "message": MESSAGE, "exit_code": 3,
    }  # fmt: skip
    _, said, _ = hook(recorded("claude-code-PreToolUse", command=command))
    new = said["hookSpecificOutput"]["updatedInput"]["command"]
    done = subprocess.run(["bash", "-c", new], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (137, "/\n")
    assert MESSAGE in done.stderr
    (sent,) = daemon.params("tool.begin")
    assert sent["intent"]["memory"] == str(64 << 20) and sent["intent"]["background"] == "keep"
    assert sent["intent"]["label"] == "toolu_01ABC123def456"
    after = recorded("claude-code-PostToolUseFailure", command=new, error=done.stderr)
    assert hook(after) == (0, None, "")


def test_an_agent_in_no_session_still_runs_its_commands(
    daemon: FakeDaemon, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentcgroup.protocol.errors import Kind

    daemon.refuse("tool.begin", Kind.NO_SESSION, remedy="start it by agentcgroup session run")
    monkeypatch.setattr(hook_run, "static_launcher", built_program)
    _, said, _ = hook(recorded("claude-code-PreToolUse", command="echo hi; exit 3"))
    new = said["hookSpecificOutput"]["updatedInput"]["command"]
    done = subprocess.run(["bash", "-c", new], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "hi\n")
    assert "agentcgroup session run" in done.stderr and "without limits" in done.stderr


def test_without_the_static_program_the_intent_is_declared(
    daemon: FakeDaemon, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(daemon, "intent.declare", {"intent_id": "i1"})
    monkeypatch.setattr(hook_run, "static_launcher", lambda: None)
    assert hook(recorded("codex-PreToolUse", command="make # agentcgroup: cpu=2"))[1] is None
    assert daemon.methods() == ["intent.declare"]


numbers = st.sampled_from(
    ["1", "+7", "1_000", "10.0", "0.00001", "2G", "1.5GiB", "90s", "1e3", "-1"]
)
names = st.sampled_from(["memory", "memory_max", "cpu", "cpu_max", "pids_max", "io_weight",
                         "timeout", "duration", "max_wait", "label", "swap_max"])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, numbers, max_size=3), st.text("é\0\n\t'x", max_size=200))
def test_the_static_program_takes_what_the_hook_says(said: dict[str, str], label: str) -> None:
    try:
        wishes = hook_run._checked(parse_pairs(" ".join(f"{k}={v}" for k, v in said.items()), "x"))
    except AgentCgroupError:
        return
    options = options_for(wishes, label.replace("\0", ""))
    command = [built_program(), *options, "--hold-fd", "0", "--", "true"]
    done = subprocess.run(command, input="go", capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
