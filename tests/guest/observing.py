# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe INSTRUMENT` beside a test's daemon.

with measuring(daemon, "alloclat") as measured:
    ...                                    # it measures by now
    measured.interrupt()
measured.of("s")["fault_ms"]["p50"]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness import PATIENCE_S, PrivateDaemon

__all__ = ["Measured", "check_without_bcc", "measuring"]

_WITHOUT_BCC = (
    "import sys; sys.modules['bcc'] = None; from agentcgroup.cli.main import main; main()"
)


class Measured:
    """`told`: its JSON, once it has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.told: dict[str, Any] = {}

    def interrupt(self) -> None:
        """As Ctrl-C does; then `wait`."""
        self._process.send_signal(signal.SIGINT)
        self.wait()

    def wait(self) -> None:
        """Until it ends by itself, content."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        assert (self._process.returncode, err) == (0, ""), err
        self.told = json.loads(out)
        print(json.dumps(self.told))
        assert self.told["lost"] == 0

    def of(self, session: str) -> dict[str, Any]:
        return next(record for record in self.told["sessions"] if record["session"] == session)


@contextmanager
def measuring(daemon: PrivateDaemon, instrument: str, *options: str) -> Iterator[Measured]:
    process = subprocess.Popen(
        ["agentcgroup", "observe", instrument, "--json", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=_environment(daemon),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Measuring"), line + process.stderr.read()
        yield Measured(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def check_without_bcc(daemon: PrivateDaemon, instrument: str) -> None:
    """One line says what to install."""
    daemon.start().client.create_session("s", memory="200M")
    shown = subprocess.run(
        [sys.executable, "-c", _WITHOUT_BCC, "observe", instrument, "--session", "s"],
        capture_output=True, text=True, env=_environment(daemon), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (78, "", 1)
    assert "apt install python3-bpfcc" in shown.stderr


def _environment(daemon: PrivateDaemon) -> dict[str, str]:
    return {**os.environ, "AGENTCGROUP_SOCKET": str(daemon.socket)}
