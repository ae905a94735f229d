# SPDX-License-Identifier: Apache-2.0
"""The build hook: what goes into a wheel with and without compilers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compilers import HAVE_C, HAVE_CLANG, NEEDS

ROOT = Path(__file__).parents[2]
needs_compilers = pytest.mark.skipif(not (HAVE_C and HAVE_CLANG), reason=NEEDS)


class App:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("hatchling", reason="needs hatchling, the build backend")
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "sandboxes/build_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the hook reads, without anything built."""
    for name in ("bpf", "sandboxes/shim"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".output", "kmod")
        )
    (tmp_path / "agentcgroup").mkdir()
    return tmp_path


def build(hook: ModuleType, tree: Path) -> tuple[dict[str, Any], App]:
    app = App()
    made = hook.AgentcgroupBuildHook(str(tree), {}, None, None, str(tree), "wheel", app)
    data: dict[str, Any] = {"shared_scripts": {}, "pure_python": True}
    made.initialize("standard", data)
    return data, app


def test_without_compilers_one_line_a_cause(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tree))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CLANG", raising=False)
    data, app = build(hook, tree)
    assert data == {"shared_scripts": {}, "pure_python": True}
    assert [line.split(":")[1].strip() for line in app.warnings] == [
        "BPF layers are off",
        "agentcgroup-run is left out, agentcgroup-guardian is left out,"
        " agentcgroup-replay is left out",
    ]
    report = json.loads((tree / "agentcgroup/_built/build.json").read_text())
    assert report["bpf"].startswith("BPF layers are off: no clang")


def test_stale_objects_do_not_ride_along(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tree))
    built = tree / "agentcgroup/_built"
    built.mkdir()
    objects = [
        built / f"{name}.bpf.o" for name in ("boundary", "memcg_ops", "memory", "sched", "toolcall")
    ]
    for made in objects:
        made.write_bytes(b"old")
        os.utime(made, (1, 1))
    build(hook, tree)
    assert not any(made.exists() for made in objects)
    for made in objects:
        made.write_bytes(b"newer than every source")
    data, app = build(hook, tree)
    assert all(made.exists() for made in objects)
    assert data["pure_python"] is False
    assert not any("BPF" in line for line in app.warnings)


@needs_compilers
def test_with_compilers_the_wheel_belongs_to_a_platform(hook: ModuleType, tree: Path) -> None:
    data, app = build(hook, tree)
    built = tree / "agentcgroup/_built"
    assert not any("BPF" in line for line in app.warnings)
    assert (built / "toolcall.bpf.o").read_bytes().startswith(b"\x7fELF")
    assert data["pure_python"] is False
    assert data["tag"].startswith("py3-none-linux_")
    assert os.access(built / "agentcgroup-run", os.X_OK)
    assert data["shared_scripts"] == {str(built / "agentcgroup-run"): "agentcgroup-run"}


@needs_compilers
def test_a_compiler_that_fails_gives_its_first_error(hook: ModuleType, tree: Path) -> None:
    (tree / "bpf/memory.bpf.c").write_text("#include <bpf/no_such_header.h>\n")
    _data, app = build(hook, tree)
    line = next(line for line in app.warnings if "BPF layers are off" in line)
    assert "'bpf/no_such_header.h' file not found" in line
    assert "libbpf-dev" in line
    assert not (tree / "agentcgroup/_built/toolcall.bpf.o").exists()


def test_texts_for_bcc_need_no_compiler(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tree))
    built = tree / "agentcgroup/_built"
    built.mkdir()
    (built / "gone.bcc.c").write_text("of an older version")
    data, _app = build(hook, tree)
    texts = {text.name: text.read_text() for text in (tree / "bpf").glob("*.bcc.[ch]")}
    assert texts and {text.name: text.read_text() for text in built.glob("*.bcc.[ch]")} == texts
    assert data["pure_python"] is True
