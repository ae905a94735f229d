# SPDX-License-Identifier: Apache-2.0
"""An agent for tests of sessions: a process that does what it is told, wherever it is put."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import PrivateDaemon

# Reads lines, runs each as a shell command, answers with its exit status; after & beside it.
AGENT = """
while read -r line; do
  case $line in
    "&"*) sh -c "exec ${line#&}" >/dev/null 2>&1 & echo 0 ;;
    *) sh -c "$line" >>"$OUT" 2>&1; echo $? ;;
  esac
done
"""


def where(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().partition("::")[2].strip()


class Agent:
    """A process of uid 1000 that runs what it is told, on the host or in a session."""

    def __init__(self, daemon: PrivateDaemon, out: Path, cgroup: Path | None = None) -> None:
        self.out = out
        out.touch()
        out.chmod(0o666)
        self.process = subprocess.Popen(
            ["sh", "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OUT": str(out), "AGENTCGROUP_SOCKET": str(daemon.socket)},
            user=1000, group=1000, extra_groups=[],
        )  # fmt: skip
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(self.pid))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def pidfd(self) -> int:
        return os.pidfd_open(self.pid)

    def where(self) -> str:
        return where(self.pid)

    def run(self, command: str) -> tuple[int, str]:
        """Exit status of a shell command of the agent's, and what it printed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.out.write_text("")
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), self.out.read_text()

    def start(self, command: str) -> None:
        """One that runs on beside it, as its child."""
        assert self.run(f"&{command}")[0] == 0

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def agent(daemon: PrivateDaemon, tmp_path: Path, cgroup: Path | None = None) -> Iterator[Agent]:
    made = Agent(daemon, tmp_path / "out", cgroup)
    try:
        yield made
    finally:
        made.end()
