# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup hook run`: one hook event of an agent CLI on stdin, the answer on stdout.

Before a command: it is rewritten to run as a tool call, or (where a rewrite would hide it
from the user's own permission rules) its intent is declared. After one: what the daemon
says about it goes to the model, unless it stands in the command's output already.

Whatever goes wrong here, the agent's command runs: the exit status is 0 or 1 and never 2,
which would block it. Runs before every command, so it loads little until it must.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client.child import static_launcher
from ..errors import AgentCgroupError, InvalidValueError, printable
from ..protocol.sockets import socket_from_environment
from .hook_agents import Agent, agent_named, agent_of
from .hook_rewrite import options_for, rewritten, runs_managed
from .wishes import FREE, wishes_for

if TYPE_CHECKING:
    from ..client import Client
    from ..protocol.messages import CallInfo

__all__ = ["MODES", "answer", "main"]

MODES = ("auto", "rewrite", "declare")
_MAX_BYTES = 64 << 20
_CLIENT_TIMEOUT_S = 5.0
_LOOKED_AT = 20
_JUST_ENDED_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 1 with one line on stderr."""
    try:
        agent_name, mode = _options(arguments)
        payload = _payload(sys.stdin.buffer.read(_MAX_BYTES + 1))
        agent = agent_named(agent_name) if agent_name else agent_of(payload)
        said = answer(agent, payload, mode, os.environ)
    except (AgentCgroupError, OSError) as problem:
        print(f"agentcgroup hook: {problem}; the command runs as it is", file=sys.stderr)
        return 1
    if said:
        print(json.dumps(said))
    return 0


def answer(
    agent: Agent, payload: Mapping[str, Any], mode: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What the agent CLI should hear; empty for "go on"."""
    event = _text(payload, "hook_event_name")
    if event not in (agent.before, *agent.after) or payload.get("tool_name") != "Bash":
        return {}
    tool_input = payload.get("tool_input")
    if not isinstance(tool_input, dict):
        raise InvalidValueError("tool_input", tool_input, "an object with command is expected")
    command = _text(tool_input, "command", "tool_input.command")
    if not Path(socket_from_environment(environment)).exists():
        return {}  # no daemon: nothing to rewrite for, and nothing to ask
    if event == agent.before:
        project = Path(environment.get("CLAUDE_PROJECT_DIR") or str(payload.get("cwd") or "."))
        rules = agent.rules_against_rewriting(project, environment) if mode == "auto" else None
        rewrite = mode == "rewrite" or (mode == "auto" and rules is None)
        return _before(agent, payload, tool_input, command, rewrite, environment)
    text = _after(payload, command)
    return _specific(event, {"additionalContext": text}) if text else {}


def _before(
    agent: Agent,
    payload: Mapping[str, Any],
    tool_input: dict[str, Any],
    command: str,
    rewrite: bool,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    specific: dict[str, Any] = {}
    try:
        wishes = _checked(wishes_for(command, environment))
    except AgentCgroupError as problem:
        wishes = {}
        specific["additionalContext"] = f"agentcgroup ignored what was declared: {problem}"
    label = str(payload.get("tool_use_id") or "")
    launcher = static_launcher() if rewrite else None
    if launcher is not None:
        new = rewritten(command, launcher, options_for(wishes, label))
        if new is not None:
            if agent.rewrite_says_allow:
                specific["permissionDecision"] = "allow"
            specific["updatedInput"] = {**tool_input, "command": new}
    elif wishes and not runs_managed(command):
        _client().declare_intent({"label": label[:128], **wishes} if label else wishes)
    return _specific(agent.before, specific) if specific else {}


def _after(payload: Mapping[str, Any], command: str) -> str:
    """The outcome's message, when the model has not read it yet."""
    if runs_managed(command):
        return ""
    found = _call_of(_client().calls(limit=_LOOKED_AT), str(payload.get("tool_use_id") or ""))
    message = found.outcome.message if found and found.outcome else ""
    read = json.dumps(payload.get("tool_response", payload.get("error")), ensure_ascii=False)
    return "" if json.dumps(message, ensure_ascii=False)[1:-1] in read else message


def _call_of(calls: Sequence[CallInfo], tool_use_id: str) -> CallInfo | None:
    """By its label; a call that nobody labelled, if it was the last one and has just ended."""
    for call in calls:
        if tool_use_id and call.label == tool_use_id:
            return call
    ended = next((call for call in calls if call.outcome is not None), None)
    if ended is None or ended.outcome is None or ended.label:
        return None
    age_s = time.time() - (ended.outcome.ended_epoch_s or 0.0)
    return ended if age_s <= _JUST_ENDED_S else None


def _checked(wishes: dict[str, str]) -> dict[str, str]:
    """The wishes, if an Intent can be made of them, as it has them; what is free is asked for."""
    if not wishes:
        return wishes
    from ..types.intents import Intent  # noqa: PLC0415  (most commands say nothing)
    from ..types.validation import parse  # noqa: PLC0415

    if wishes.get("memory") == FREE:
        free_bytes = _client().budget().memory_free_bytes or 0
        wishes = {**wishes, "memory": str(max(free_bytes, 1 << 20))}
    intent = parse(Intent, wishes, "intent")
    return {name: _plain(getattr(intent, name)) for name in wishes}


def _plain(value: Any) -> str:
    """As agentcgroup-run reads it: whole numbers and decimals without an exponent."""
    return f"{value:.9f}" if isinstance(value, float) else str(value)


def _client() -> Client:
    from ..client import Client  # noqa: PLC0415  (most commands say nothing)

    return Client(timeout_s=_CLIENT_TIMEOUT_S)


def _options(arguments: Sequence[str]) -> tuple[str | None, str]:
    agent, mode = None, "auto"
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--mode" and words:
            mode = words.pop(0)
            if mode not in MODES:
                raise InvalidValueError("--mode", mode, "modes here: " + ", ".join(MODES))
        elif agent is None and not word.startswith("-"):
            agent = word
        else:
            raise InvalidValueError("hook run", word, "write hook run [AGENT] [--mode MODE]")
    return agent, mode


def _payload(data: bytes) -> dict[str, Any]:
    remedy = "one JSON object of a hook event is expected on stdin"
    if len(data) > _MAX_BYTES:
        raise InvalidValueError("stdin", f"{len(data)} bytes", "a hook event has at most 64 MiB")
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise InvalidValueError("stdin", _start(data), f"{remedy} ({problem})") from None
    if not isinstance(payload, dict):
        raise InvalidValueError("stdin", _start(data), remedy)
    return payload


def _start(data: bytes) -> str:
    return printable(data[:200].decode("utf-8", errors="replace"), 60)[1:-1]


def _text(record: Mapping[str, Any], name: str, field: str = "") -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise InvalidValueError(field or name, value, "text is expected, as hook events have it")
    return value


def _specific(event: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"hookSpecificOutput": {"hookEventName": event, **said}}
