# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal of its own, as a person at the keys would have it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

__all__ = ["ENTER_SCREEN", "LEAVE_SCREEN", "TerminalProgram"]

ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class TerminalProgram:
    """It and its terminal, of 24 lines and 120 columns."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], patience_s: float) -> None:
        self._patience_s = patience_s
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 120))
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, env=env,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> TerminalProgram:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self) -> None:
        while select.select([self.master], [], [], 0.05)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")

    def until(self, *wanted: str) -> str:
        """What was drawn until all of it was there; then begins anew."""
        deadline_s = time.monotonic() + self._patience_s
        while not all(word in self.text for word in wanted):
            assert time.monotonic() < deadline_s, f"no {wanted} in {self.text[-3000:]!r}"
            self.read()
        shown, self.text = self.text, ""
        return shown

    def type(self, keys: str) -> None:
        self.text = ""
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        deadline_s = time.monotonic() + self._patience_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.text[-3000:]
            self.read()
        self.read()
        return self.process.returncode

    def is_as_it_was(self) -> bool:
        """Echo and lines as before, the cursor visible, the first screen shown."""
        screen = self.text.rfind(LEAVE_SCREEN) > self.text.rfind(ENTER_SCREEN)
        cursor = self.text.rfind("\x1b[?25h") > self.text.rfind("\x1b[?25l")
        return screen and cursor and termios.tcgetattr(self.slave) == self.before
