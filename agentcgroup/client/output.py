# SPDX-License-Identifier: Apache-2.0
"""What a command writes, piece by piece as it comes, and whole at the end."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import selectors
import subprocess
import time
from collections.abc import Callable
from typing import IO, Any

__all__ = ["OnOutput", "Sink", "checked_options", "communicate", "encoded_input"]

READ_BYTES = 1 << 16
# ("stdout" | "stderr", what came): str if the command runs in text mode, else bytes
OnOutput = Callable[[str, Any], None]


def checked_options(
    options: dict[str, Any], given: Any, on_output: OnOutput | None, *, capture_output: bool
) -> dict[str, Any]:
    """Popen's options for what subprocess.run calls `input` and `capture_output`."""
    options = dict(options)
    if given is not None:
        if options.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        options["stdin"] = subprocess.PIPE
    if capture_output:
        if options.get("stdout") is not None or options.get("stderr") is not None:
            raise ValueError("stdout and stderr may not be used with capture_output.")
        options["stdout"] = options["stderr"] = subprocess.PIPE
    elif on_output is not None:
        for name in ("stdout", "stderr"):
            options.setdefault(name, subprocess.PIPE)
    return options


class Sink:
    """One output of a process: decoded as the process's own stream object would."""

    def __init__(self, name: str, stream: IO[Any], on_output: OnOutput | None) -> None:
        self.fd = stream.fileno()
        self._name = name
        self._on_output = on_output
        self._parts: list[Any] = []
        self._decoder: io.IncrementalNewlineDecoder | None = None
        if isinstance(stream, io.TextIOWrapper):
            plain = codecs.getincrementaldecoder(stream.encoding)(stream.errors or "strict")
            self._decoder = io.IncrementalNewlineDecoder(plain, translate=True)

    def feed(self, data: bytes) -> None:
        """Empty: the end."""
        piece: Any = data
        if self._decoder is not None:
            piece = self._decoder.decode(data, final=not data)
        if not piece:
            return
        self._parts.append(piece)
        if self._on_output is not None:
            self._on_output(self._name, piece)

    def whole(self) -> Any:
        return ("" if self._decoder is not None else b"").join(self._parts)


def sinks_of(process: subprocess.Popen[Any], on_output: OnOutput | None) -> dict[str, Sink]:
    streams = {"stdout": process.stdout, "stderr": process.stderr}
    return {
        name: Sink(name, stream, on_output)
        for name, stream in streams.items()
        if stream is not None
    }


def encoded_input(stream: IO[Any], given: Any) -> memoryview:
    """Bytes for a process's standard input, as one of its streams encodes them."""
    if isinstance(given, str) and isinstance(stream, io.TextIOWrapper):
        given = given.encode(stream.encoding, stream.errors or "strict")
    return memoryview(given or b"")


def communicate(
    process: subprocess.Popen[Any],
    given: Any,
    timeout_s: float | None,
    on_output: OnOutput | None,
) -> tuple[Any, Any]:
    """Popen.communicate that hands on every piece at once; may raise TimeoutExpired."""
    if on_output is None:
        return process.communicate(given, timeout=timeout_s)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    sinks = sinks_of(process, on_output)
    with selectors.DefaultSelector() as selector:
        for sink in sinks.values():
            selector.register(sink.fd, selectors.EVENT_READ, sink)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(
                process.stdin.fileno(), selectors.EVENT_WRITE, encoded_input(process.stdin, given)
            )
        _pump(process, selector, deadline_s, timeout_s)
    left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
    process.wait(left_s)
    out, err = (sinks[name].whole() if name in sinks else None for name in ("stdout", "stderr"))
    return out, err


def _pump(
    process: subprocess.Popen[Any],
    selector: selectors.BaseSelector,
    deadline_s: float | None,
    timeout_s: float | None,
) -> None:
    while selector.get_map():
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise subprocess.TimeoutExpired(process.args, timeout_s or 0.0)
        for key, _ in selector.select(left_s):
            if isinstance(key.data, Sink):
                data = os.read(key.data.fd, READ_BYTES)
                key.data.feed(data)
                if not data:
                    selector.unregister(key.fd)
                continue
            rest = written(key.fd, key.data)
            if rest:
                selector.modify(key.fd, selectors.EVENT_WRITE, rest)
            else:
                selector.unregister(key.fd)
                close_input(process)


def written(fd: int, data: memoryview) -> memoryview:
    """What is left of `data` after a write; nothing, if nobody reads any more."""
    try:
        return data[os.write(fd, data[:READ_BYTES]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def close_input(process: subprocess.Popen[Any]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
