# SPDX-License-Identifier: Apache-2.0
"""The disk that carries this checkout: its files, the installed product, the guest's scripts.

Layout: `src/` the checkout, `site/` the unpacked wheel, `bin/` its commands, `guest/` scripts,
`kmod/` the optional kernel module, for kernels that have one.
Keyed by content, so an unchanged checkout costs one hash.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import stat
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from guestvm import userland
from guestvm.host import Cache, GuestError, call, make_ext4, program, say, tree_size_bytes

BUILT = "agentcgroup/_built"
SHIM = "agentcgroup-run"
# What a wheel can depend on; a changed test or text does not mean a new wheel.
WHEEL_ROOMS = ("agentcgroup/", "bpf/", "sandboxes/shim/", "sandboxes/build_hook.py")
WHEEL_FILES = ("pyproject.toml", "README.md", "LICENSE", "Makefile")
SKIPPED = {
    ".git", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
}  # fmt: skip
KEEP = 12


def files(checkout: Path) -> list[str]:
    """What /src holds: tracked, untracked but not ignored, and objects built in place."""
    if (checkout / ".git").exists():
        listed = call(
            [program("git"), "-c", f"safe.directory={checkout}", "ls-files", "-z", "--cached",
             "--others", "--exclude-standard"],
            cwd=checkout,
        )  # fmt: skip
        names = {name for name in listed.split("\0") if name}
    else:
        names = set()
        for directory, subdirectories, found in os.walk(checkout):
            subdirectories[:] = [name for name in subdirectories if name not in SKIPPED]
            names |= {str((Path(directory) / name).relative_to(checkout)) for name in found}
    built = checkout / BUILT
    if built.is_dir():
        names |= {str(path.relative_to(checkout)) for path in built.rglob("*") if path.is_file()}
    return sorted(name for name in names if os.path.lexists(checkout / name))


def content_hash(checkout: Path, names: Iterable[str]) -> str:
    """A hash of names, contents, link targets and executable bits."""
    total = hashlib.sha256()
    for name in names:
        path = checkout / name
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, data = b"l", os.fsencode(path.readlink())
        elif stat.S_ISREG(mode):
            kind, data = (b"x" if mode & 0o100 else b"f"), path.read_bytes()
        else:
            continue
        total.update(kind + os.fsencode(name) + b"\0" + hashlib.sha256(data).digest())
    return total.hexdigest()[:16]


def copy(checkout: Path, names: Iterable[str], target: Path) -> None:
    for name in names:
        if not (checkout / name).is_dir() or (checkout / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target / name, follow_symlinks=False)


def ensure(cache: Cache, checkout: Path, guest: userland.Built, module: Path | None) -> Path:
    """The product's disk image for what the checkout holds now, for this userland and kernel."""
    names = files(checkout)
    wheel = _wheel(cache, checkout, names)
    parts = f"{content_hash(checkout, names)} {wheel.parent.name} {guest.python_version}"
    if module is not None:
        parts += f" {module.parent.name}"
    entry = f"product-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"

    def build(work: Path) -> None:
        tree = work / "tree"
        copy(checkout, names, tree / "src")
        install(wheel, tree)
        guest.compile(tree / "site", "/opt/agentcgroup/site")
        shutil.copytree(tree / "src/sandboxes/guest/inside", tree / "guest")
        if module is not None:
            (tree / "kmod").mkdir()
            shutil.copy(module, tree / "kmod")
        room = int(tree_size_bytes(tree) * 1.2) + (4 << 20)
        make_ext4(work / "product.img", room, source=tree, label="product")
        shutil.rmtree(tree)

    directory = cache.entry(entry, build)
    os.utime(directory)
    cache.prune("product", KEEP)
    cache.prune("wheel", KEEP)
    return directory / "product.img"


def _wheel(cache: Cache, checkout: Path, names: list[str]) -> Path:
    relevant = [n for n in names if n.startswith(WHEEL_ROOMS) or n in WHEEL_FILES]
    # The build hook compiles with what it finds: a new compiler means a new wheel.
    compilers = sorted(
        {path.name for part in os.get_exec_path() for path in Path(part).glob("clang*")}
        | {name for name in ("cc", "gcc", "musl-gcc", "bpftool") if shutil.which(name)}
    )
    text = content_hash(checkout, relevant) + " ".join(compilers)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    python = userland.builder(cache, project["build-system"]["requires"])

    def build(work: Path) -> None:
        source = work / "source"
        copy(checkout, names, source)
        call(
            [python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
             "-w", work, source],
        )  # fmt: skip
        shutil.rmtree(source)
        for built in work.glob("*.whl"):
            for line in left_out(built):
                say(line)

    directory = cache.entry(f"wheel-{key}", build, "building the wheel")
    os.utime(directory)
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise GuestError(f"expected one wheel in {directory}, found {len(wheels)}; remove it")
    return wheels[0]


def left_out(wheel: Path) -> list[str]:
    """What the wheel's build says it could not compile here."""
    with zipfile.ZipFile(wheel) as archive:
        if f"{BUILT}/build.json" not in archive.namelist():
            return []
        report = json.loads(archive.read(f"{BUILT}/build.json"))
    return [text for text in report.values() if " off: " in text or " left out: " in text]


def install(wheel: Path, tree: Path) -> None:
    """What an installer does with a wheel: `site/` gets its files, `bin/` its commands."""
    site, commands = tree / "site", tree / "bin"
    commands.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            target = Path(archive.extract(entry, site))
            mode = entry.external_attr >> 16 & 0o777
            if mode and target.is_file():
                target.chmod(mode | 0o444)
    for scripts in site.glob("*.data/scripts"):
        for script in scripts.iterdir():
            shutil.copy2(script, commands / script.name)
            (commands / script.name).chmod(0o755)
    for declared in site.glob("*.dist-info/entry_points.txt"):
        for name, target_name in console_scripts(declared.read_text(encoding="utf-8")).items():
            (commands / name).write_text(_launcher(target_name), encoding="utf-8")
            (commands / name).chmod(0o755)
    shim = site / BUILT / SHIM
    if shim.exists():
        shim.chmod(0o755)
        if not (commands / SHIM).exists():
            (commands / SHIM).symlink_to(Path("../site") / BUILT / SHIM)
    # Tests that import the checkout find the same objects there.
    if (site / BUILT).is_dir():
        shutil.copytree(site / BUILT, tree / "src" / BUILT, dirs_exist_ok=True)


def console_scripts(entry_points: str) -> dict[str, str]:
    """Command -> `module:function`, from a wheel's entry_points.txt."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(entry_points)
    return dict(parser["console_scripts"]) if parser.has_section("console_scripts") else {}


def _launcher(target: str) -> str:
    module, function = target.split(":")
    lines = ("#!/usr/bin/python3", "import sys", f"from {module} import {function}")
    return "\n".join((*lines, f"sys.exit({function}())", ""))
