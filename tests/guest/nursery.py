# SPDX-License-Identifier: Apache-2.0
"""Daemons forked from a process that has imported everything already.

Importing costs an emulated CPU seconds, and a crash test starts many daemons. Apart
from that a forked daemon is a started one: its own session, environment and log.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

__all__ = ["Nursery", "NurseryProcess"]


class Nursery:
    """The process that forks. Use it as a context manager; it outlives no test module."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask({"quit": True})
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(10)

    def start(self, config: str, log: str, env: dict[str, str]) -> NurseryProcess:
        answer = self.ask({"config": config, "log": log, "env": env})
        return NurseryProcess(self, answer["pid"])

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class NurseryProcess:
    """The part of Popen that the harness uses."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})["status"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"daemon {self.pid}", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _serve() -> None:
    importlib.import_module("agentcgroup.daemon.main")
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            _answer({"status": _poll(question["poll"])})
        elif "config" in question:
            pid = os.fork()
            if pid == 0:
                _become_daemon(question)
            _answer({"pid": pid})
        else:
            _answer({})
            return


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _poll(pid: int) -> int | None:
    with contextlib.suppress(ChildProcessError):
        found, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None
    return None


def _become_daemon(question: dict[str, Any]) -> None:
    """Never returns: the exit status is what agentcgroupd's would be."""
    os.setsid()
    log = os.open(question["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    null = os.open("/dev/null", os.O_RDONLY)
    for fd, old in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, old)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(question["env"])
    from agentcgroup.daemon import crashpoints

    importlib.reload(crashpoints)  # it reads the environment once
    from agentcgroup.daemon.config import load_config
    from agentcgroup.daemon.main import run
    from agentcgroup.errors import AgentCgroupError

    status = 1
    try:
        run(load_config(question["config"]), question["config"])
        status = 0
    except AgentCgroupError as error:
        sys.stderr.write(f"{error}\n")
        status = error.exit_code
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
