# SPDX-License-Identifier: Apache-2.0
"""One tool call of an asyncio program. A cancelled task takes its call along: leaving the
`async with` block ends it, whatever the reason, and what runs in it is killed.
"""

from __future__ import annotations

import asyncio
import subprocess
from types import TracebackType
from typing import Any

from ..protocol.messages import UpdateResult
from ..types.intents import Intent
from ..types.outcomes import Outcome
from ..types.validation import parse
from . import async_output
from .call_dialog import CallDialog
from .child import command_line
from .output import OnOutput, checked_options
from .steps import Spawn, in_task, to_its_end
from .toolcall import AnyToolCall, CompletedCall

__all__ = ["AsyncToolCall"]

# A process killed by us is gone at once, or its leaf's end takes care of it.
_KILLED_WAIT_S = 2.0


class AsyncToolCall(AnyToolCall):
    """Made by AsyncClient.tool_call; `run` and `popen` take what subprocess takes."""

    def __init__(self, dialog: CallDialog) -> None:
        super().__init__(dialog)
        self._lock = asyncio.Lock()

    async def popen(
        self, args: Any, *, shell: bool = False, **options: Any
    ) -> subprocess.Popen[Any]:
        """subprocess.Popen inside the call; `await call.wait(process)` waits for it."""
        async with self._lock:
            child = await Spawn(self._argv(args, shell), options).suspend()
            try:
                await in_task(self._dialog.place(child.pidfd, command_line(child.argv)))
            except BaseException:
                child.abandon()
                raise
            return self._released(child)

    async def wait(self, process: subprocess.Popen[Any]) -> int:
        """A process's return code."""
        return await async_output.wait(process)

    async def run(
        self,
        args: Any,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109  (subprocess.run's word)
        check: bool = False,
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> CompletedCall:
        """As ToolCall.run; a cancelled one kills its command."""
        options = checked_options(options, input, on_output, capture_output=capture_output)
        process = await self.popen(args, **options)
        try:
            async with asyncio.timeout(timeout) as bound:
                out, err = await async_output.communicate(process, input, on_output)
        except BaseException as problem:
            process.kill()
            await to_its_end(_gone(process))
            if isinstance(problem, TimeoutError) and bound.expired():
                raise subprocess.TimeoutExpired(process.args, timeout or 0.0) from None
            raise
        finally:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        completed = CompletedCall(self, process.args, process.returncode, out, err)
        if check:
            completed.check_returncode()
        return completed

    async def update(self, intent: Intent | dict[str, Any]) -> UpdateResult | None:
        """Tell new wishes for the running call; the limits it has now (None: unmanaged)."""
        wish = intent if isinstance(intent, Intent) else parse(Intent, intent, "intent")
        async with self._lock:
            return await in_task(self._dialog.update(wish))

    async def end(self) -> Outcome | None:
        """End the call now: what still runs in it is killed."""
        await to_its_end(self._end())
        return self.outcome

    async def _end(self) -> None:
        async with self._lock:
            await in_task(self._dialog.end())

    async def __aenter__(self) -> AsyncToolCall:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()


async def _gone(process: subprocess.Popen[Any]) -> None:
    gone = asyncio.ensure_future(async_output.wait(process))
    await asyncio.wait([gone], timeout=_KILLED_WAIT_S)
