# SPDX-License-Identifier: Apache-2.0
"""Control files through descriptors that stay open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agentcgroup.cgroupfs.handle import Cgroup
from agentcgroup.cgroupfs.kept import KeptFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "memory.current").write_text("4096\n")
    return tmp_path


def opened(folder: Path) -> Cgroup:
    return Cgroup(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), str(folder))


def test_what_is_there_now_is_read_each_time(folder: Path) -> None:
    with opened(folder) as cgroup, KeptFiles(cgroup) as kept:
        assert kept.try_read("memory.current") == "4096"
        (folder / "memory.current").write_text("12\n")
        assert kept.try_read("memory.current") == "12"
        assert kept.try_read("memory.stat") is None


@pytest.mark.parametrize("size", [1 << 12, 1 << 14, 50_000])
def test_long_texts_are_whole(folder: Path, size: int) -> None:
    text = "x" * size
    (folder / "io.stat").write_text(text)
    with opened(folder) as cgroup, KeptFiles(cgroup) as kept:
        assert kept.try_read("io.stat") == text


def test_without_descriptors_it_opens_for_each_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: Cgroup, file: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with opened(folder) as cgroup, KeptFiles(cgroup) as kept:
        monkeypatch.setattr(Cgroup, "open_file", none_left)
        assert kept.try_read("memory.current") == "4096"


def test_all_is_closed(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    cgroup = opened(folder)
    kept = KeptFiles(cgroup, owned=True)
    kept.try_read("memory.current")
    kept.close()
    assert cgroup.fd == -1
    assert len(list(Path("/proc/self/fd").iterdir())) == before
