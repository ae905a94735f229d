# SPDX-License-Identifier: Apache-2.0
"""A bash that stays alive between commands, each of which is a tool call of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ..types.intents import Intent
from .output import OnOutput
from .shell_dialog import CompletedCommand, ShellDialog
from .steps import in_thread
from .toolcall import AnyToolCall

__all__ = ["AnyShell", "Shell"]


class AnyShell:
    """What is known of a shell, in threads and in tasks."""

    def __init__(self, dialog: ShellDialog) -> None:
        self._dialog = dialog

    @property
    def alive(self) -> bool:
        """Whether a shell waits for the next command, with what earlier ones left in it.

        False before the first command, and after one that ended the shell (`exit`, `exec`, a
        signal, a timeout that it did not heed): the next command gets a fresh one.
        """
        return self._dialog.alive

    @property
    def restarted(self) -> bool:
        """Whether the last command ran in a fresh shell because the one before it had ended:
        directory, variables and functions are as they were at first."""
        return self._dialog.restarted

    @property
    def call(self) -> AnyToolCall | None:
        """The tool call of the last command, also of one that raised."""
        return self._dialog.call


class Shell(AnyShell):
    """Made by Client.shell. One command at a time: another thread's waits for its turn."""

    def __init__(self, dialog: ShellDialog) -> None:
        super().__init__(dialog)
        self._lock = threading.RLock()

    def run(
        self,
        command: str | bytes,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        input: Any = None,
        timeout: float | None = None,
        check: bool = False,
        retries: int = 0,
        on_output: OnOutput | None = None,
        **fields: Any,
    ) -> CompletedCommand:
        """One command line, or many, as a tool call of its own; `.outcome` says how it ended.

        `intent` as in Client.tool_call (keywords are its fields), `timeout`, `check`, `retries`
        and `on_output` as in Client.run. Standard input is empty without `input`.

        It is over when the shell is ready for the next command. Its output is what is in the
        pipes then; what a process that it left writes later comes with the next command.

        TimeoutExpired has the output up to then; the command was interrupted, and the shell
        goes on if that ended it within a second.
        """
        with self._lock:
            return in_thread(
                self._dialog.run(
                    command, intent, fields, given=input, timeout_s=timeout, check=check,
                    retries=retries, on_output=on_output,
                )
            )  # fmt: skip

    def close(self) -> None:
        """End the shell, from any thread, and what it runs."""
        if self._dialog.ours:
            self._dialog.stop()
            with self._lock:
                in_thread(self._dialog.close())

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
