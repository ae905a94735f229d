# SPDX-License-Identifier: Apache-2.0
"""The shell of an asyncio program. A cancelled `run` interrupts its command, and what else
runs in its tool call is killed; the shell goes on, if it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ..types.intents import Intent
from .output import OnOutput
from .shell import AnyShell
from .shell_dialog import CompletedCommand, ShellDialog
from .steps import in_task, to_its_end

__all__ = ["AsyncShell"]


class AsyncShell(AnyShell):
    """Made by AsyncClient.shell. One command at a time: another task's waits for its turn."""

    def __init__(self, dialog: ShellDialog) -> None:
        super().__init__(dialog)
        self._lock = asyncio.Lock()

    async def run(
        self,
        command: str | bytes,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        input: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109  (subprocess.run's word)
        check: bool = False,
        retries: int = 0,
        on_output: OnOutput | None = None,
        **fields: Any,
    ) -> CompletedCommand:
        """As Shell.run."""
        async with self._lock:
            return await in_task(
                self._dialog.run(
                    command, intent, fields, given=input, timeout_s=timeout, check=check,
                    retries=retries, on_output=on_output,
                )
            )  # fmt: skip

    async def close(self) -> None:
        """End the shell and what it runs."""
        if self._dialog.ours:
            self._dialog.stop()
            await to_its_end(self._close())

    async def _close(self) -> None:
        async with self._lock:
            await in_task(self._dialog.close())

    async def __aenter__(self) -> AsyncShell:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
