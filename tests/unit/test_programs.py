# SPDX-License-Identifier: Apache-2.0
"""Where our static programs are found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import programs


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    programs.find_program.cache_clear()
    yield
    programs.find_program.cache_clear()


def _program(path: Path, *, elf: bool) -> str:
    path.parent.mkdir(exist_ok=True)
    if elf:
        shutil.copy("/bin/true", path)
    else:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return str(path)


def test_the_packages_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_BUILT", tmp_path / "built")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    on_path = _program(tmp_path / "bin" / "agentcgroup-run", elf=True)
    assert programs.find_program("agentcgroup-run") == on_path
    programs.find_program.cache_clear()
    own = _program(tmp_path / "built" / "agentcgroup-run", elf=True)
    assert programs.find_program("agentcgroup-run") == own


def test_somebodys_script_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_BUILT", tmp_path / "built")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert programs.find_program("agentcgroup-run") is None
    programs.find_program.cache_clear()
    _program(tmp_path / "bin" / "agentcgroup-run", elf=False)
    assert programs.find_program("agentcgroup-run") is None
