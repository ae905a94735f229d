# SPDX-License-Identifier: Apache-2.0
"""What a refusal looks like: one line with field, value and remedy, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forked import CGROUPFS, Ended, contents, program_pids
from harness import until

__all__ = ["refused", "says", "unchanged"]


@contextmanager
def unchanged(*directories: Path) -> Iterator[None]:
    """Cgroups, /run, these directories and our processes are after as they were before."""
    places = (CGROUPFS, Path("/run"), Path("/var/lib/agentcgroup"), *directories)
    before, pids = contents(*places), program_pids()
    yield
    until(lambda: program_pids() <= pids, "no process is left", timeout_s=20)
    assert contents(*places) - before == set()
    assert before - contents(*places) == set()


def says(text: str, *words: str) -> None:
    """One line for the one who must act: these words and nothing unprintable."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    assert text[:-1].isprintable(), text
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


def refused(ended: Ended, status: int, *words: str) -> None:
    assert ended.status == status, ended
    assert ended.stdout == ""
    says(ended.stderr, *words)
