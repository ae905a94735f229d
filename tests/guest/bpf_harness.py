# SPDX-License-Identifier: Apache-2.0
"""Cgroups to watch, processes to run in them, and a reader of what BPF tells about both."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from agentcgroup.bpf.kernel_events import KernelEvents
from agentcgroup.types.events import KernelEvent

DEADLINE_S = 20.0
HOG = "data = b'x' * ({mib} << 20)"

E = TypeVar("E", bound=KernelEvent)


class Collector:
    """Reads until something is there."""

    def __init__(self, source: KernelEvents) -> None:
        self.source = source
        self.seen: list[KernelEvent] = []

    def wait(self, kind: type[E], matches: Callable[[E], bool] = lambda _event: True) -> E:
        until = time.monotonic() + DEADLINE_S
        while True:
            self.seen += self.source.read()
            for event in self.seen:
                if isinstance(event, kind) and matches(event):
                    return event
            left = until - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no such {kind.__name__} among {self.seen}")
            select.select([self.source.fileno()], [], [], left)

    def all_of(self, kind: type[E]) -> list[E]:
        self.seen += self.source.read()
        return [event for event in self.seen if isinstance(event, kind)]


class Tree:
    """A session with a leaf in the watched subtree, and a leaf outside it."""

    def __init__(self, base: Path, name: str) -> None:
        self.watched = base / "watched"
        self.root = self.watched / name
        self.leaf = self.root / "leaf"
        self.outside = base / name
        for directory in (self.root, self.leaf, self.outside):
            directory.mkdir()
        (self.root / "cgroup.subtree_control").write_text("+memory")

    def run(
        self, where: Path, *command: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            preexec_fn=entering(where),
            check=False,
            capture_output=True,
            input=stdin.encode() if stdin else None,
        )

    def python(self, where: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return self.run(where, sys.executable, "-S", "-E", "-c", code, *arguments)

    @contextmanager
    def throttled_hog(self, where: Path) -> Iterator[None]:
        """A process above any memory.high that these tests set, which never gets done."""
        hog = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-E",
                "-c",
                f"{HOG.format(mib=48)}\nimport time; time.sleep(99)",
            ],
            preexec_fn=entering(where),  # noqa: PLW1509
        )
        try:
            yield
        finally:
            hog.kill()
            hog.wait()

    def remove(self) -> None:
        for directory in (self.leaf, self.root, self.outside):
            remove_cgroup(directory)


def entering(where: Path) -> Callable[[], None]:
    """For a child before its exec: the order that tool calls have too."""
    procs = str(where / "cgroup.procs")

    def enter() -> None:
        with open(procs, "w") as file:
            file.write("0")

    return enter


def high_count(where: Path) -> int:
    counts = dict(line.split() for line in (where / "memory.events").read_text().splitlines())
    return int(counts["high"])


def remove_cgroup(directory: Path) -> None:
    (directory / "cgroup.kill").write_text("1")
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            directory.rmdir()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def cgroup_id(path: Path) -> int:
    return path.stat().st_ino
