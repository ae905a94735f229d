# SPDX-License-Identifier: Apache-2.0
"""The live screen of `top`: a thread that asks the daemon, a loop that draws and hears keys.

The daemon may be slow to answer on a host under pressure, or restart: keys work all the
same, and the last figures stay on the screen, marked as old.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from ..errors import AgentCgroupError
from .top_keys import KeyReader, Ui, bounded, press
from .top_rows import Snapshot, filtered, groups, ordered
from .top_view import CHROME_ROWS, flat, frame

__all__ = ["run_live"]

_INTERVAL_S = 1.0
_JOIN_S = 0.2


def run_live(read: Callable[[], Snapshot]) -> None:
    """Until q, Ctrl-C or the end of the input; the terminal is as it was afterwards."""
    feed = Feed(read, read())
    screen = Screen(sys.stdin.fileno())
    with screen, _signals(screen) as wake_fd:
        feed.start(lambda: _poke(screen))
        try:
            _loop(feed, screen, wake_fd)
        except KeyboardInterrupt:
            pass
        finally:
            feed.stop()


class Feed:
    """Keeps the two newest snapshots. `trouble` says why there is no newer one."""

    def __init__(self, read: Callable[[], Snapshot], first: Snapshot) -> None:
        self._read = read
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard_s = time.monotonic()
        self._problem = ""
        self.pair: tuple[Snapshot | None, Snapshot] = (None, first)

    def start(self, changed: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(changed,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    @property
    def trouble(self) -> str:
        silent_s = time.monotonic() - self._heard_s
        if self._problem:
            return f"no figures for {silent_s:.0f} s: {self._problem}"
        return f"no answer for {silent_s:.0f} s" if silent_s > 5 * _INTERVAL_S else ""

    def _run(self, changed: Callable[[], None]) -> None:
        while not self._ended.wait(_INTERVAL_S):
            try:
                newest = self._read()
            except AgentCgroupError as problem:
                self._problem = str(problem)
            else:
                self._problem, self._heard_s = "", time.monotonic()
                self.pair = (self.pair[1], newest)
            if not self._ended.is_set():
                changed()


class Screen:
    """The terminal: the alternate screen for drawing, keys without echo."""

    def __init__(self, stdin_fd: int) -> None:
        self.fd = stdin_fd
        self.console = Console()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self._before = termios.tcgetattr(stdin_fd)
        self._live = self._new_live()

    def __enter__(self) -> Screen:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        os.close(self.wake_read)
        os.close(self.wake_write)

    def draw(self, feed: Feed, ui: Ui) -> Ui:
        """One frame; the state with its scrolling bounded to what there is."""
        before, now = feed.pair
        total = ordered(groups(before, now), ui.sort, reverse=ui.reverse)
        kept = filtered(total, ui.filter)
        width, height = self.console.size
        ui = bounded(ui, len(flat(kept)), height - CHROME_ROWS)
        self._live.update(
            frame(now.status, kept, total, ui, width, trouble=feed.trouble), refresh=True
        )
        return ui

    def suspend(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and take it again when continued."""
        self._close()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._open()

    def _open(self) -> None:
        tty.setcbreak(self.fd)
        self._live = self._new_live()
        self._live.start()

    def _close(self) -> None:
        self._live.stop()
        termios.tcsetattr(self.fd, termios.TCSAFLUSH, self._before)

    def _new_live(self) -> Live:
        return Live(
            console=self.console, screen=True, auto_refresh=False,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip


def _loop(feed: Feed, screen: Screen, wake_fd: int) -> None:
    ui, reader = Ui(), KeyReader()
    while not ui.done:
        ui = screen.draw(feed, ui)
        ready, _, _ = select.select([screen.fd, wake_fd], [], [], _INTERVAL_S)
        if wake_fd in ready:
            os.read(wake_fd, 4096)
        if screen.fd in ready:
            data = os.read(screen.fd, 4096)
            if not data:
                return
            for key in reader.keys(data):
                ui = press(ui, key)


def _poke(screen: Screen) -> None:
    """Wake the loop; a full pipe wakes it as well, a closed one has ended."""
    with contextlib.suppress(OSError):
        os.write(screen.wake_write, b"\0")


@contextlib.contextmanager
def _signals(screen: Screen) -> Iterator[int]:
    """A resized window is drawn at once; SIGTERM leaves the terminal as it was."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {
        signal.SIGWINCH: lambda _number, _frame: _poke(screen),
        signal.SIGTSTP: lambda _number, _frame: screen.suspend(),
        signal.SIGTERM: end,
        signal.SIGHUP: end,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield screen.wake_read
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
