# SPDX-License-Identifier: Apache-2.0
"""One tool call: placed before it runs, ended with a reason.

No code of a command runs before the daemon has placed it. Leaving the `with` block ends
the call and what is left in it.
"""

from __future__ import annotations

import os
import subprocess
import threading
from types import TracebackType
from typing import Any, TypeVar

from ..protocol.messages import BeginResult, UpdateResult
from ..types.intents import Intent
from ..types.outcomes import Outcome
from ..types.validation import parse
from .call_dialog import CallDialog
from .child import WaitingChild, command_line, normalize
from .output import OnOutput, checked_options, communicate
from .steps import in_thread

__all__ = ["AnyToolCall", "CompletedCall", "ToolCall", "checked"]


class AnyToolCall:
    """What is known of a call, in threads and in tasks."""

    def __init__(self, dialog: CallDialog) -> None:
        self._dialog = dialog

    @property
    def key(self) -> str:
        """The caller's own name of the call; the same key is the same call."""
        return self._dialog.key

    @property
    def intent(self) -> Intent:
        return self._dialog.intent

    @property
    def info(self) -> BeginResult | None:
        """The daemon's answer to the begin; None before the first command and unmanaged."""
        return self._dialog.info

    @property
    def outcome(self) -> Outcome | None:
        """None until the call has ended."""
        return self._dialog.outcome

    @property
    def id(self) -> str | None:
        """The daemon's name of the call; None before the first command and unmanaged."""
        return self._dialog.id

    @property
    def managed(self) -> bool:
        """True once the daemon has placed the call."""
        return self._dialog.info is not None

    def _argv(self, args: Any, shell: bool) -> list[str]:
        if self._dialog.state == "ended":
            raise RuntimeError("this tool call has ended; start another with tool_call()")
        return normalize(args, shell=shell)

    def _released(self, child: WaitingChild) -> subprocess.Popen[Any]:
        process = child.release()
        self._dialog.processes.append(process)
        return process


C = TypeVar("C", bound="CompletedCall")


class CompletedCall(subprocess.CompletedProcess[Any]):
    """subprocess.CompletedProcess, plus the outcome of the call it belongs to."""

    def __init__(self, call: AnyToolCall, args: Any, returncode: int, out: Any, err: Any) -> None:
        super().__init__(args, returncode, out, err)
        self.call = call

    @property
    def outcome(self) -> Outcome | None:
        """None until the call has ended."""
        return self.call.outcome


def checked(result: C) -> C:
    """Raises CalledProcessError, with the outcome's sentences, unless the command succeeded."""
    if result.returncode:
        error = subprocess.CalledProcessError(
            result.returncode, result.args, result.stdout, result.stderr
        )
        if result.outcome and result.outcome.message:
            error.add_note(result.outcome.message)
        raise error
    return result


class ToolCall(AnyToolCall):
    """Made by Client.tool_call; `run` and `popen` take what subprocess takes."""

    def __init__(self, dialog: CallDialog) -> None:
        super().__init__(dialog)
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def popen(self, args: Any, *, shell: bool = False, **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside the call; what still runs when the call ends is killed."""
        with self._lock:
            child = WaitingChild(self._argv(args, shell), options)
            try:
                in_thread(self._dialog.place(child.pidfd, command_line(child.argv)))
            except BaseException:
                child.abandon()
                raise
            return self._released(child)

    def run(
        self,
        args: Any,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> CompletedCall:
        """subprocess.run inside the call; its result knows the call's outcome.

        `on_output("stdout" or "stderr", piece)` is called with what the command writes as
        it comes; the result holds the whole of it.
        """
        options = checked_options(options, input, on_output, capture_output=capture_output)
        with self.popen(args, **options) as process:
            try:
                out, err = communicate(process, input, timeout, on_output)
            except BaseException:
                process.kill()
                process.wait()
                raise
        completed = CompletedCall(self, process.args, process.returncode, out, err)
        if check:
            completed.check_returncode()
        return completed

    def update(self, intent: Intent | dict[str, Any]) -> UpdateResult | None:
        """Tell new wishes for the running call; the limits it has now (None: unmanaged)."""
        wish = intent if isinstance(intent, Intent) else parse(Intent, intent, "intent")
        with self._lock:
            return in_thread(self._dialog.update(wish))

    def end(self) -> Outcome | None:
        """End the call now, from any thread: what still runs in it is killed."""
        with self._lock:
            in_thread(self._dialog.end())
        return self.outcome

    def __enter__(self) -> ToolCall:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A forked child leaves the block too; the call is its parent's.
        if self._pid == os.getpid():
            self.end()
