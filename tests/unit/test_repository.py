# SPDX-License-Identifier: Apache-2.0
"""The rules of the repository, executed: layers, licences, linters, top level."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentcgroup"

# Rank of each room; imports go down only. What may go sideways is named below.
RANKS = {
    "errors": 0, "units": 0, "clock": 0, "log": 0, "programs": 0, "__init__": 0,
    "types": 1,
    "cgroupfs": 2, "bpf": 2, "policy": 2, "protocol": 2, "supervisor": 2, "trace": 2,
    "enforce": 3, "sandbox": 3, "client": 3,
    "daemon": 4, "replay": 4, "simulate": 4, "integrations": 4,
    "cli": 5,
}  # fmt: skip
SIDEWAYS: set[tuple[str, str]] = {("trace", "supervisor")}
TOP_LEVEL = {
    "agentcgroup", "bpf", "sandboxes", "traces", "tests", "docs", "pyproject.toml", "Makefile",
    "README.md", "LICENSE", "CHANGELOG.md",
}  # fmt: skip


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def _imports(path: Path) -> set[str]:
    """Rooms of this package that a file imports, also inside functions."""
    rooms = set()
    package = ["agentcgroup", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module[:1] == ["agentcgroup"]:
                rooms |= {module[1]} if len(module) > 1 else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("agentcgroup.")}
    return {room if room in RANKS else "__init__" for room in rooms}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    for other in _imports(path) - {room}:
        if room == "__init__" or RANKS[room] == RANKS[other] == 0:
            continue
        allowed = RANKS[other] < RANKS[room] or (room, other) in SIDEWAYS
        assert allowed, f"{path.relative_to(ROOT)} ({room}) imports {other}"


def test_top_level_is_fixed() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in _tracked()}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL


def test_every_source_file_names_its_licence() -> None:
    for path in _tracked():
        if path.suffix not in (".py", ".c", ".h", ".sh") or path.stat().st_size == 0:
            continue
        expected = "GPL-2.0-only" if path.relative_to(ROOT).parts[0] == "bpf" else "Apache-2.0"
        head = path.read_text(encoding="utf-8")[:200]
        assert f"SPDX-License-Identifier: {expected}" in head, path


def test_text_speaks_of_the_product_alone() -> None:
    """No path of a developer's machine and no package host in the repository."""
    words = ["/" + "work/", "/" + "farm/", "." + "library", "deb.debian" + ".org",
             "pypi" + ".org", "pythonhosted" + ".org"]  # fmt: skip
    for path in _tracked():
        if path.suffix in (".gz", ".zst", ".png"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for word in words:
            assert word not in text, f"{path.relative_to(ROOT)} has {word}"


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "agentcgroup", "tests", "sandboxes"],
        ["ruff", "check", "agentcgroup", "tests", "sandboxes"],
        ["mypy"],
    ],
    ids=["format", "lint", "types"],
)
def test_linters_are_content(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_test_modules_have_names_of_their_own() -> None:
    """They are imported by their bare names: of two with the same name one would be lost."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
