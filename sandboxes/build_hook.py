# SPDX-License-Identifier: Apache-2.0
"""Puts what a compiler makes into the wheel: BPF objects and the static C programs.

Users of a wheel then need no compiler. Building on a machine without clang or cc succeeds
with one line that says which layers are off; `_built/build.json` repeats it for `doctor`.
The tag becomes platform-specific as soon as anything compiled is inside.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CLANG_OLDEST = 14  # 16 and newer are what the objects are tested with
BPF_PACKAGES = "Debian packages clang-16 libbpf-dev"
PROGRAMS = ("agentcgroup-run", "agentcgroup-guardian", "agentcgroup-replay")
ON_PATH = "agentcgroup-run"
ERROR_LINE = re.compile(r"(fatal error|error):|\*\*\*|not found|No such file")


class NotBuiltError(Exception):
    """Why files can't be built here, in one line."""


class AgentcgroupBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        out = root / "agentcgroup" / "_built"
        out.mkdir(exist_ok=True)
        built: list[Path] = []
        report: dict[str, str] = {}
        problems: dict[str, list[str]] = {}
        for name, off, build in (
            ("bpf", "BPF layers are off", build_bpf),
            *((name, f"{name} is left out", partial(build_program, name)) for name in PROGRAMS),
        ):
            try:
                files, report[name] = build(root, out)
                built += files
            except NotBuiltError as problem:
                report[name] = f"{off}: {problem}"
                problems.setdefault(str(problem), []).append(off)
        copy_texts(root, out)
        for problem, offs in problems.items():
            self.app.display_warning(f"agentcgroup: {', '.join(offs)}: {problem}")
        (out / "build.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if not built:
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        if out / ON_PATH in built:
            build_data["shared_scripts"][str(out / ON_PATH)] = ON_PATH


def build_bpf(root: Path, out: Path) -> tuple[list[Path], str]:
    """Compile bpf/*.bpf.c with the newest clang that manages it; (objects, by what)."""
    sources = sorted((root / "bpf").glob("*.bpf.c"))
    objects = [out / f"{source.name.removesuffix('.c')}.o" for source in sources]
    if not sources:
        raise NotBuiltError("bpf/ holds no programs")
    problem = f"no clang {CLANG_OLDEST} or newer on PATH ({BPF_PACKAGES})"
    for clang, version in find_clangs():
        try:
            run_make(root / "bpf", f"CLANG={clang}", "objects")
        except NotBuiltError as failed:
            hint = f" ({BPF_PACKAGES})" if "bpf/" in str(failed) else ""
            problem = f"clang {version}: {failed}{hint}"
            continue
        install([root / "bpf" / ".output" / built.name for built in objects], out, mode=0o644)
        return objects, f"clang {version}"
    if up_to_date(objects, [*sources, *(root / "bpf").glob("*.h")]):
        return objects, "built earlier"
    discard(objects)
    raise NotBuiltError(problem)


def copy_texts(root: Path, out: Path) -> None:
    """Programs that BCC compiles where they run: no compiler is needed here for them."""
    texts = sorted((root / "bpf").glob("*.bcc.[ch]"))
    discard([old for old in out.glob("*.bcc.[ch]") if old.name not in {t.name for t in texts}])
    install(texts, out, mode=0o644)


def build_program(name: str, root: Path, out: Path) -> tuple[list[Path], str]:
    """Compile one of the static C programs; (it, by what)."""
    shim = root / "sandboxes" / "shim"
    program = out / name
    cc = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "cc", "clang")), None)
    try:
        if not (shim / "Makefile").exists():
            raise NotBuiltError("sandboxes/shim is not in this source tree")
        if cc is None:
            raise NotBuiltError("no C compiler on PATH (Debian packages gcc libc6-dev make)")
        run_make(shim, f"CC={cc}", f".output/{name}")
        install([shim / ".output" / name], out, mode=0o755)
    except NotBuiltError:
        if up_to_date([program], [*shim.glob("*.c"), *shim.glob("*.h")]):
            return [program], "built earlier"
        discard([program])
        raise
    return [program], cc


def find_clangs() -> list[tuple[str, int]]:
    """(program, major version) of every usable clang on PATH, newest first."""
    names = [os.environ.get("CLANG", ""), "clang", *(f"clang-{n}" for n in range(14, 30))]
    found: dict[str, int] = {}
    for name in names:
        program = shutil.which(name) if name else None
        if program is None:
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"clang version (\d+)", said.stdout)
        if match and int(match[1]) >= CLANG_OLDEST:
            found[program] = int(match[1])
    return sorted(found.items(), key=lambda item: -item[1])


def run_make(directory: Path, *variables: str) -> None:
    """Run make; the first telling line of a failure becomes the error."""
    make = shutil.which("make")
    if make is None:
        raise NotBuiltError("no make on PATH")
    done = subprocess.run(
        [make, "-C", str(directory), *variables],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"make ended with {done.returncode}"]
        raise NotBuiltError(next(filter(ERROR_LINE.search, lines), lines[-1]).strip())
    sys.stderr.write(done.stdout)


def install(files: list[Path], out: Path, *, mode: int) -> None:
    for file in files:
        if not file.exists():
            raise NotBuiltError(f"make succeeded but left no {file.name}")
        # a running program can't be overwritten in place; a rename can replace it
        fresh = out / f".{file.name}.new"
        shutil.copyfile(file, fresh)
        fresh.chmod(mode)
        fresh.replace(out / file.name)


def up_to_date(built: list[Path], sources: list[Path]) -> bool:
    if not built or not sources or not all(file.exists() for file in built):
        return False
    return min(f.stat().st_mtime for f in built) >= max(f.stat().st_mtime for f in sources)


def discard(files: list[Path]) -> None:
    """Nothing stale may ride along."""
    for file in files:
        file.unlink(missing_ok=True)
