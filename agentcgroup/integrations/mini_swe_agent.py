# SPDX-License-Identifier: Apache-2.0
"""An environment for mini-swe-agent (2.x) that runs each action as a tool call.

    environment:
      environment_class: agentcgroup.integrations.mini_swe_agent.ToolCallEnvironment

The observation is what mini-swe-agent's own local environment gives, plus the reason when an
action was killed, refused or timed out. What the model says about an action's needs (a
comment, a variable: see wishes.py) becomes its intent.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..client import Client, ToolCall
from ..errors import AgentCgroupError, InvalidValueError, RefusedError, RemoteError
from ..log import get_logger, warn_once
from ..types.intents import Intent
from ..types.outcomes import EXIT_OF_REASON, Outcome
from ..types.validation import WireModel, parse
from .wishes import FREE, wishes_for

__all__ = ["ToolCallEnvironment", "ToolCallEnvironmentConfig"]

_log = get_logger(__name__)
_SUBMIT = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
# The daemon ends what is over its time; without one, or when it is slow, we do.
_GRACE_S = 15.0


class ToolCallEnvironmentConfig(WireModel):
    """`cwd`, `env` and `timeout` (seconds) as in mini-swe-agent's local environment.

    `intent` is what every action declares that says nothing itself; `session` who pays
    (default: the agent's own); `require` fails without a daemon instead of running unmanaged.
    """

    cwd: str = ""
    env: dict[str, str] = {}
    timeout: float = 30.0
    session: str | None = None
    intent: dict[str, Any] = {}
    require: bool = False


class ToolCallEnvironment:
    """Has the methods of mini-swe-agent's Environment protocol."""

    def __init__(self, **kwargs: Any) -> None:
        self.config = parse(ToolCallEnvironmentConfig, kwargs)
        self._client = Client(require=self.config.require)

    def execute(
        self, action: Mapping[str, Any], cwd: str = "", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Output, return code and what went wrong with running it; raises Submitted at the end."""
        command = str(action.get("command", ""))
        wishes, note = self._wishes(command, timeout or self.config.timeout)
        try:
            code, text = self._run(command, cwd or self.config.cwd or str(Path.cwd()), wishes)
        except RefusedError as refusal:
            code, text = refusal.exit_code, _line(refusal.outcome.message)
        except (AgentCgroupError, OSError) as problem:
            return {
                "output": note,
                "returncode": -1,
                "exception_info": f"An error occurred while executing the command: {problem}",
                "extra": {"exception_type": type(problem).__name__, "exception": str(problem)},
            }
        output = {"output": note + text, "returncode": code, "exception_info": ""}
        _check_finished(text, code)
        return output

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        return {**self.config.model_dump(), **platform.uname()._asdict(), **os.environ, **kwargs}

    def serialize(self) -> dict[str, Any]:
        kind = type(self)
        return {
            "info": {
                "config": {
                    "environment": self.config.model_dump(mode="json"),
                    "environment_type": f"{kind.__module__}.{kind.__name__}",
                }
            }
        }

    def _wishes(self, command: str, timeout_s: float) -> tuple[dict[str, Any], str]:
        """The intent, and a line for the model when it said something that can't be used."""
        usual = {"background": "keep", "timeout_s": timeout_s, **self.config.intent}
        try:
            said: dict[str, Any] = dict(wishes_for(command, {**os.environ, **self.config.env}))
            if said.get("memory") == FREE:
                said["memory"] = self._client.budget(self.config.session).memory_free_bytes
            parse(Intent, {**usual, **said}, "intent")
        except AgentCgroupError as problem:
            return usual, _line(f"ignored what was declared: {problem}")
        return {**usual, **said}, ""

    def _run(self, command: str, cwd: str, wishes: dict[str, Any]) -> tuple[int, str]:
        """Its exit status as a shell says it, and what it printed.

        Into a file: a pipe would stay open for as long as a server that the action left.
        """
        call = self._client.tool_call(wishes, session=self.config.session)
        with tempfile.TemporaryFile() as printed:
            with call:
                code = self._wait(call, self._start(call, command, cwd, printed))
            printed.seek(0)
            text = printed.read().decode("utf-8", errors="replace")
        outcome = call.outcome
        if outcome is None or not call.managed:
            return code, text
        return EXIT_OF_REASON.get(outcome.reason, code), text + _feedback(text, outcome)

    def _start(
        self, call: ToolCall, command: str, cwd: str, printed: IO[bytes]
    ) -> subprocess.Popen[Any]:
        """In the call; an agent that may not begin one (in no session) is told, and runs it."""
        argv = ["bash", "-c", command]
        options: dict[str, Any] = {
            "cwd": cwd, "env": {**os.environ, **self.config.env}, "stdin": subprocess.DEVNULL,
            "stdout": printed, "stderr": subprocess.STDOUT, "start_new_session": True,
        }  # fmt: skip
        try:
            return call.popen(argv, **options)
        except RefusedError:
            raise
        except RemoteError as problem:
            if self.config.require:
                raise
            warn_once(_log, f"actions run without limits: {problem}: {problem.remedy}")
            return subprocess.Popen(argv, **options)

    def _wait(self, call: ToolCall, process: subprocess.Popen[Any]) -> int:
        limit_s = call.intent.timeout_s or self.config.timeout
        try:
            code = process.wait(limit_s + (_GRACE_S if call.managed else 0.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            raise InvalidValueError(
                "timeout", f"{limit_s:g} s", "the command took longer and was killed"
            ) from None
        return 128 - code if code < 0 else code


def _feedback(text: str, outcome: Outcome) -> str:
    if not outcome.message:
        return ""
    return ("" if not text or text.endswith("\n") else "\n") + _line(outcome.message)


def _line(message: str) -> str:
    return f"agentcgroup: {message}\n"


def _check_finished(text: str, code: int) -> None:
    """mini-swe-agent's way to end: the command printed the marker first, and succeeded."""
    lines = text.lstrip().splitlines(keepends=True)
    if code != 0 or not lines or lines[0].strip() != _SUBMIT:
        return
    from minisweagent.exceptions import Submitted  # noqa: PLC0415  (its users have it)

    submission = "".join(lines[1:])
    raise Submitted(
        {
            "role": "exit",
            "content": submission,
            "extra": {"exit_status": "Submitted", "submission": submission},
        }
    )
