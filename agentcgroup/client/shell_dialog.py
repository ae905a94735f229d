# SPDX-License-Identifier: Apache-2.0
"""One bash, many commands, each a tool call: the logic of both clients' shells.

The shell itself stays with the agent and is placed nowhere; what it starts between a call's
begin and end is placed by the daemon. So a command that must stop is interrupted while its
call lasts, and a shell that does not heed that is killed before the call ends: nothing of
the command goes on outside of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InvalidValueError
from ..types.intents import Intent
from .call_dialog import CallDialog
from .output import READ_BYTES, OnOutput, encoded_input, sinks_of
from .questions import intent_of, next_try
from .shell_process import ShellProcess, bytes_waiting
from .steps import Conversation, Readable, Whole
from .toolcall import AnyToolCall, CompletedCall, checked

__all__ = ["CompletedCommand", "ShellDialog"]

_OPTIONS = frozenset({"cwd", "env", "text", "universal_newlines", "encoding", "errors", "stderr"})
_COMMAND_CHARS = 4096
# How long an interrupted command may take to clean up, and how often it is interrupted.
_GRACE_S = 1.0
_INTERRUPT_EVERY_S = 0.2
# The daemon ends a call that is over its time: SIGTERM, five seconds, then the end. It can
# only end what is in the call, so the shell is interrupted a moment after its first signal.
_DAEMON_FIRST_S = 0.5
_DAEMON_GRACE_S = 6.0
# For what it does by `trap … EXIT`.
_LEAVE_S = 1.0


class CompletedCommand(CompletedCall):
    """subprocess.CompletedProcess of a shell's command, plus the outcome of its call.

    `returncode` is what `$?` would be, 137 for a program that was killed. Did the shell itself
    end, it is the shell's (negative: the signal), and `shell_ended` is true.
    """

    def __init__(
        self,
        call: AnyToolCall,
        args: Any,
        returncode: int,
        out: Any,
        err: Any,
        *,
        shell_ended: bool,
    ) -> None:
        super().__init__(call, args, returncode, out, err)
        self.shell_ended = shell_ended


class _Output(Protocol):
    @property
    def fd(self) -> int: ...

    def feed(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _Unheard:
    fd: int

    def feed(self, data: bytes) -> None:
        """Nobody listens any more, but a full pipe would keep its writer."""


@dataclass(frozen=True, slots=True)
class _Status:
    """What a command ended with, as CallDialog asks it."""

    returncode: int

    def poll(self) -> int:
        return self.returncode


class _Bound:
    """From when on a command is interrupted, and when a shell that does not heed it is killed."""

    def __init__(self, in_s: float | None, grace_s: float) -> None:
        self.interrupted = False
        self._next_s = float("inf") if in_s is None else time.monotonic() + in_s
        self._kill_s = self._next_s + grace_s

    def before(self, other: _Bound) -> bool:
        return self._next_s <= other._next_s

    def left_s(self) -> float | None:
        left_s = self._next_s - time.monotonic()
        return None if left_s == float("inf") else max(0.0, left_s)

    def act(self, process: ShellProcess) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self.interrupted = True
        if now_s >= self._kill_s:
            process.kill()
            self._next_s = self._kill_s = float("inf")
        else:
            process.interrupt()
            self._next_s = min(now_s + _INTERRUPT_EVERY_S, self._kill_s)


class ShellDialog:
    """One at a time may run a command: whoever holds conversations of it sees to that."""

    def __init__(self, new_call: Callable[[Intent], CallDialog], options: dict[str, Any]) -> None:
        for name in options.keys() - _OPTIONS:
            remedy = f"a shell takes {', '.join(sorted(_OPTIONS))}"
            raise InvalidValueError(name, options[name], remedy)
        stderr = options.setdefault("stderr", subprocess.PIPE)
        if stderr not in (subprocess.PIPE, subprocess.STDOUT):
            remedy = "give subprocess.PIPE, or STDOUT for one output of both"
            raise InvalidValueError("stderr", stderr, remedy)
        self.call: AnyToolCall | None = None
        self.restarted = False
        self._new_call = new_call
        self._options = options
        self._process: ShellProcess | None = None
        self._first = True
        self._running = False
        self._closed = False
        self._pid = os.getpid()

    @property
    def alive(self) -> bool:
        return (process := self._process) is not None and not process.ended()

    @property
    def ours(self) -> bool:
        """False in a forked child: the shell is its parent's."""
        return self._pid == os.getpid()

    def run(
        self,
        command: str | bytes,
        intent: Intent | Mapping[str, Any] | None,
        fields: Mapping[str, Any],
        *,
        given: Any,
        timeout_s: float | None,
        check: bool,
        retries: int,
        on_output: OnOutput | None,
    ) -> Conversation[CompletedCommand]:
        text = _data(command)
        wish: Intent | None = intent_of(intent, fields)
        while wish is not None:
            self._check_usable()
            if self._running:
                raise RuntimeError("this shell runs a command, which this call would wait for")
            self._running = True
            try:
                result = yield from self._run(command, text, wish, given, timeout_s, on_output)
            finally:
                self._running = False
                if self._closed:
                    yield Whole(self.close())
            wish = next_try(wish, result.outcome) if retries > 0 else None
            retries -= 1
        return checked(result) if check else result

    def stop(self) -> None:
        """From any thread: nothing runs in this shell from now on; `close` is still to come."""
        self._closed = True
        process = self._process
        if process is not None and self._running:
            process.kill()

    def close(self) -> Conversation[None]:
        """End the shell, and what runs in its process group outside of tool calls."""
        self._closed = True
        process = self._process
        if process is None or self._running:  # then the run that is told of it closes
            return
        process.dismiss()
        if not (yield Readable((process.pidfd,), _LEAVE_S)) or process.strays:
            process.kill()
        yield Readable((process.pidfd,), None)
        process.reap()
        self._forget(process)

    # One command

    def _run(
        self,
        command: str | bytes,
        text: bytes,
        wish: Intent,
        given: Any,
        timeout_s: float | None,
        on_output: OnOutput | None,
    ) -> Conversation[CompletedCommand]:
        dialog = self._new_call(wish)
        self.call = AnyToolCall(dialog)
        try:
            process = yield from self._placed(dialog, text)
            bound, ours = _bounds(dialog, timeout_s)
            sinks = sinks_of(process.process, on_output)
            outputs: dict[int, _Output] = {sink.fd: sink for sink in sinks.values()}
            try:
                process.send(text, _input_bytes(process, given))
                code = yield from _followed(process, outputs, bound)
            except BaseException:
                yield Whole(_quieted(process, dialog))
                raise
            if bound.interrupted:
                code = yield Whole(_quieted(process, dialog))
            else:
                dialog.processes.append(_Status(code))
            _take_rest(outputs)
            for sink in sinks.values():
                sink.feed(b"")
        finally:
            yield Whole(self._ended(dialog))
        printed = [sinks[name].whole() if name in sinks else None for name in ("stdout", "stderr")]
        if bound.interrupted and ours:
            raise subprocess.TimeoutExpired(command, timeout_s or 0.0, *printed)
        return CompletedCommand(self.call, command, code, *printed, shell_ended=process.gone)

    def _placed(self, dialog: CallDialog, text: bytes) -> Conversation[ShellProcess]:
        """The shell, allowed to run the command; a fresh one where there is none any more."""
        shown = text.decode(errors="replace")[:_COMMAND_CHARS]

        def place(pidfd: int) -> Conversation[None]:
            return dialog.place(pidfd, shown)

        process = self._process
        if process is not None and process.ended():
            process.reap()
            self._forget(process)
            process = None
        if process is None:
            process = yield from ShellProcess.start(self._options, place)
            self._process, self.restarted, self._first = process, not self._first, False
        else:
            self.restarted = False
            yield from place(process.pidfd)
        self._check_usable()  # stopped from another thread meanwhile
        if dialog.info is None and dialog.intent.background != "keep":
            process.strays = True
        return process

    def _ended(self, dialog: CallDialog) -> Conversation[None]:
        yield from dialog.end()
        if self._process is not None and self._process.gone:
            self._forget(self._process)

    def _forget(self, process: ShellProcess) -> None:
        process.close()
        self._process = None

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this shell is closed; make another with client.shell()")
        if not self.ours:
            raise RuntimeError("this shell belongs to the process that was forked; make another")


def _bounds(dialog: CallDialog, timeout_s: float | None) -> tuple[_Bound, bool]:
    """What bounds the command first; whether that is the caller's timeout."""
    ours = _Bound(timeout_s, _GRACE_S)
    info, limit_s = dialog.info, dialog.intent.timeout_s
    if info is None or info.nested or info.mode != "enforce" or limit_s is None:
        return ours, True
    theirs = _Bound(limit_s + _DAEMON_FIRST_S, _DAEMON_GRACE_S)
    return (ours, True) if ours.before(theirs) else (theirs, False)


def _input_bytes(process: ShellProcess, given: Any) -> bytes | None:
    stream = process.process.stdout
    assert stream is not None
    return None if given is None else bytes(encoded_input(stream, given))


def _followed(
    process: ShellProcess, outputs: dict[int, _Output], bound: _Bound
) -> Conversation[int]:
    """Take what the command writes until its status comes, or the shell ends; that status.

    Outputs that have ended are taken out of `outputs`.
    """
    watched = {process.status_fd, process.pidfd}
    code: int | None = None
    while code is None:
        ready = yield Readable((*watched, *outputs), bound.left_s())
        for fd in outputs.keys() & set(ready):
            if not _fed(outputs[fd], READ_BYTES):
                del outputs[fd]
        if process.status_fd in ready:
            code, more = process.hear()
            if not more:  # `exec` of another program: only its end is still to come
                watched.discard(process.status_fd)
        if code is None and process.pidfd in ready:
            code = process.reap()
        if code is None:
            bound.act(process)
    return code


def _take_rest(outputs: dict[int, _Output]) -> None:
    """What a command that has ended wrote is in the pipes, and is all that is read of them:
    who else holds them (a server in the background) is not waited for."""
    for output in outputs.values():
        left_bytes = bytes_waiting(output.fd)
        while left_bytes > 0 and (taken := _fed(output, min(left_bytes, READ_BYTES))):
            left_bytes -= taken


def _fed(output: _Output, most_bytes: int) -> int:
    data = os.read(output.fd, most_bytes)
    if data:
        output.feed(data)
    return len(data)


def _quieted(process: ShellProcess, dialog: CallDialog) -> Conversation[int]:
    """Interrupt what still runs; a shell that comes back in time goes on. How the command ended."""
    if process.busy:
        fds = [sink.fd for sink in sinks_of(process.process, None).values()]
        unheard: dict[int, _Output] = {fd: _Unheard(fd) for fd in fds}
        yield from _followed(process, unheard, _Bound(0.0, _GRACE_S))
        _take_rest(unheard)
    if not process.gone:
        # An interrupt may still be on its way: it must not meet the next command.
        process.send(b":", None)
        yield from _followed(process, {}, _Bound(_GRACE_S, 0.0))
    code = process.process.returncode or -signal.SIGINT
    dialog.processes.append(_Status(code))
    return code


def _data(command: str | bytes) -> bytes:
    """The command as the shell is given it."""
    if not isinstance(command, str | bytes):
        remedy = "give one string of shell text; shlex.join makes one of a list"
        raise InvalidValueError("command", command, remedy)
    try:
        text = os.fsencode(command)
    except UnicodeEncodeError as problem:
        raise InvalidValueError("command", command, f"give text or bytes ({problem})") from None
    if b"\0" in text:
        remedy = "leave out its NUL character: a shell's text has none; data goes to input="
        raise InvalidValueError("command", command, remedy)
    return text
