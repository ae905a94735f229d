# SPDX-License-Identifier: Apache-2.0
"""The machine that runs the guest: its programs, its cache directory, its messages."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

# Program -> Debian package that brings it.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "git": "git",
    # The product's wheel carries compiled BPF objects and static C programs.
    "make": "make",
    "cc": "gcc",
}
FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/share/seabios/bios-256k.bin": "seabios",
    "/usr/include/stdlib.h": "libc6-dev",
    "/usr/include/bpf/bpf_helpers.h": "libbpf-dev",
}
CLANGS = ("clang", *(f"clang-{major}" for major in range(16, 30)))
CLANG_PACKAGES = {"clang-16", "llvm-16"}
# Administrators' programs are outside an ordinary user's PATH on Debian.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class GuestError(Exception):
    """The guest could not be built or started; the text says what to do."""


def say(text: str) -> None:
    print(f"guest: {text}", file=sys.stderr, flush=True)


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise GuestError(f"cannot find {name}; install the package {PACKAGES.get(name, name)}")
    return found


def missing_packages() -> list[str]:
    wanted = {p for name, p in PACKAGES.items() if not shutil.which(name, path=SEARCH_PATH)}
    wanted |= {package for path, package in FILES.items() if not Path(path).exists()}
    if not any(shutil.which(name, path=SEARCH_PATH) for name in CLANGS):
        wanted |= CLANG_PACKAGES
    try:
        import ensurepip  # noqa: F401, PLC0415  # Debian splits it off into python3-venv
    except ImportError:
        wanted.add("python3-venv")
    return sorted(wanted)


def install_missing(cache: Cache) -> None:
    """Install the Debian packages that building and booting need; needs root only if some lack."""
    if not missing_packages():
        return
    with cache.lock("packages", tell=True):
        # Another start may have installed them meanwhile; two at once fail on apt's own lock.
        wanted = missing_packages()
        if not wanted:
            return
        install = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise GuestError("packages are missing; as root on Debian: " + " ".join(install))
        say("installing " + " ".join(wanted))
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        call(["apt-get", "update"], environment=environment)
        call(install, environment=environment)


def call(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
    timeout_s: float = 900,
) -> str:
    """Run a helper program and return its output; its last lines are the error if it fails."""
    words = [os.fspath(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, "PATH": SEARCH_PATH, **(environment or {})},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise GuestError(f"cannot run {words[0]}: {error}") from error
    with process:
        try:
            output, errors = process.communicate(text or "", timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _end_group(process)
            raise GuestError(f"{words[0]} did not finish within {timeout_s:.0f} s") from error
        except BaseException:
            _end_group(process)
            raise
    if process.returncode != 0:
        tail = "\n  ".join((errors.strip() or output.strip()).splitlines()[-15:])
        shown = " ".join(words)[:200]
        raise GuestError(f"command failed with status {process.returncode}: {shown}\n  {tail}")
    return output


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a helper and everything it started; it gets a moment to undo its mounts."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)


class Cache:
    """Everything built, in one directory; an entry appears complete or not at all."""

    def __init__(self, directory: Path | None = None) -> None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.directory = directory or base / "agentcgroup"
        self.directory.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self.directory / name

    @contextlib.contextmanager
    def lock(self, kind: str, *, tell: bool = False) -> Iterator[None]:
        """One builder at a time per kind of entry; the lock ends with its process."""
        with open(self.path(f".{kind}.lock"), "w", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if tell:
                    say(f"waiting for another start, which is busy with {kind}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def entry(self, name: str, build: Callable[[Path], None], announce: str = "") -> Path:
        """The directory `name` (KIND-KEY), built by `build(empty directory)` if it is missing."""
        final = self.path(name)
        if final.exists():
            return final
        kind = name.rsplit("-", 1)[0]
        with self.lock(kind, tell=bool(announce)):
            if final.exists():
                return final
            if announce:
                say(announce)
            started = time.monotonic()
            # Whoever holds the lock is the only builder: what lies here belongs to a killed one.
            for left in self.directory.glob(f".{kind}-*.building"):
                shutil.rmtree(left, ignore_errors=True)
            work = self.path(f".{name}.building")
            work.mkdir()
            try:
                build(work)
                work.rename(final)
            finally:
                if work.exists():
                    shutil.rmtree(work, ignore_errors=True)
            if announce:
                say(f"{name}: built in {time.monotonic() - started:.1f} s")
        return final

    def prune(self, kind: str, keep: int) -> None:
        """Forget all but the youngest entries; a guest that has one open keeps its disk."""
        entries = [p for p in self.directory.glob(f"{kind}-*") if p.is_dir()]
        for old in sorted(entries, key=_age_s)[keep:]:
            with self.lock(kind):
                shutil.rmtree(old, ignore_errors=True)


def _age_s(entry: Path) -> float:
    """Somebody who starts at the same time may have removed it meanwhile."""
    try:
        return time.time() - entry.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def run_directory(cache: Cache) -> Iterator[Path]:
    """A directory for one start; those of starts that were killed are removed first."""
    for left in cache.directory.glob("run-*"):
        with contextlib.suppress(OSError), open(left / "lock", "w", encoding="ascii") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=".run-", dir=cache.directory))
    try:
        with open(directory / "lock", "w", encoding="ascii") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Visible to the clean-up above only once the lock is held.
            directory = directory.rename(cache.path(directory.name.removeprefix(".")))
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_ext4(
    image: Path, size_bytes: int, *, source: Path | None = None, label: str = "data"
) -> None:
    """A sparse ext4 image without journal (it is thrown away, never recovered)."""
    command: list[str | Path] = [
        program("mke2fs"), "-q", "-F", "-t", "ext4", "-L", label, "-m", "0",
        "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0",
    ]  # fmt: skip
    if source is not None:
        command += ["-d", source]
    call([*command, image, f"{max(size_bytes // 1024, 1024)}k"])
    # Only a repair tool needs it, and a shared directory should look as it is.
    call([program("debugfs"), "-w", "-R", "rmdir lost+found", image])


def tree_size_bytes(root: Path) -> int:
    """Room that mke2fs needs for a tree: blocks of files plus inodes and directories."""
    total = 0
    for directory, names, files in os.walk(root):
        total += 4096 * (len(names) + 1)
        for name in files:
            size = os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118
            total += (size + 4095) // 4096 * 4096 + 512
    return total
