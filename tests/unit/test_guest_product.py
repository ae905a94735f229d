# SPDX-License-Identifier: Apache-2.0
"""Guest: what goes on the product disk, and when it counts as changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sandboxes/guest"))

from guestvm import product  # noqa: E402
from guestvm.cpio import Cpio  # noqa: E402


def checkout(directory: Path) -> Path:
    (directory / "agentcgroup").mkdir()
    (directory / "agentcgroup/__init__.py").write_text("one = 1\n")
    (directory / "run").write_text("#!/bin/sh\n")
    (directory / "link").symlink_to("run")
    return directory


def test_hash_follows_content_mode_and_link_target(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    names = product.files(tree)
    seen = {product.content_hash(tree, names)}
    (tree / "run").chmod(0o755)
    seen.add(product.content_hash(tree, names))
    (tree / "agentcgroup/__init__.py").write_text("one = 2\n")
    seen.add(product.content_hash(tree, names))
    (tree / "link").unlink()
    (tree / "link").symlink_to("agentcgroup")
    seen.add(product.content_hash(tree, names))
    assert len(seen) == 4


def test_hash_ignores_times_and_order_of_listing(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    before = product.content_hash(tree, product.files(tree))
    os.utime(tree / "run", (1, 1))
    assert product.content_hash(tree, product.files(tree)) == before


def test_git_decides_what_belongs_except_for_built_objects(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    (tree / ".gitignore").write_text("/agentcgroup/_built/\n*.log\n")
    (tree / "noise.log").write_text("no")
    (tree / "agentcgroup/_built").mkdir()
    (tree / "agentcgroup/_built/x.bpf.o").write_bytes(b"\x7fELF")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.example"]
    subprocess.run([*git, "init", "-q"], cwd=tree, check=True)
    subprocess.run([*git, "add", "run", ".gitignore"], cwd=tree, check=True)
    (tree / "run").unlink()
    assert product.files(tree) == [
        ".gitignore", "agentcgroup/__init__.py", "agentcgroup/_built/x.bpf.o", "link",
    ]  # fmt: skip


def test_without_git_caches_stay_out(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    (tree / "agentcgroup/__pycache__").mkdir()
    (tree / "agentcgroup/__pycache__/x.pyc").write_bytes(b"")
    assert product.files(tree) == ["agentcgroup/__init__.py", "link", "run"]


def test_install_makes_commands_and_shares_built_objects(tmp_path: Path) -> None:
    wheel = tmp_path / "agentcgroup-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("agentcgroup/__init__.py", "")
        archive.writestr("agentcgroup/_built/x.bpf.o", "elf")
        archive.writestr("agentcgroup-1.data/scripts/agentcgroup-run", "static")
        archive.writestr(
            "agentcgroup-1.dist-info/entry_points.txt",
            "[console_scripts]\nagentcgroup = agentcgroup.cli.main:main\n",
        )
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    product.install(wheel, tree)
    assert "from agentcgroup.cli.main import main" in (tree / "bin/agentcgroup").read_text()
    for command in ("agentcgroup", "agentcgroup-run"):
        assert os.access(tree / "bin" / command, os.X_OK)
    assert (tree / "src/agentcgroup/_built/x.bpf.o").read_text() == "elf"


def test_left_out_layers_are_told(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "agentcgroup/_built/build.json",
            '{"bpf": "BPF layers are off: no clang", "shim": "gcc"}',
        )
    assert product.left_out(wheel) == ["BPF layers are off: no clang"]


def test_initramfs_is_readable_by_cpio_rules() -> None:
    archive = Cpio()
    archive.directory("bin")
    archive.file("bin/tool", b"12345", executable=True)
    archive.console("dev/console")
    data = io.BytesIO(archive.finish())
    found = {}
    while True:
        header = data.read(110)
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        name = data.read(fields[11])[:-1].decode()
        data.read(-(110 + fields[11]) % 4)
        body = data.read(fields[6])
        data.read(-fields[6] % 4)
        if name == "TRAILER!!!":
            break
        found[name] = (fields[1], body, (fields[9], fields[10]))
    assert found["bin/tool"] == (0o100755, b"12345", (0, 0))
    assert found["dev/console"][0] == 0o020600
    assert found["dev/console"][2] == (5, 1)
