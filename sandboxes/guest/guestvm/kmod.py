# SPDX-License-Identifier: Apache-2.0
"""A kernel's headers, and the optional kernel module of bpf/kmod, built with them.

Built here, not in the guest: a compiler under emulation takes a minute, here two seconds. The
kernel's build tools need the libraries of its own Debian release, so it is done in a small
userland with compiler and pahole, which is never booted.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from pathlib import Path

from guestvm import archive, product
from guestvm.archive import Archive
from guestvm.host import Cache, GuestError, call, make_ext4, program, say, tree_size_bytes
from guestvm.kernel import BootKernel
from guestvm.roles import ROLES

NAME = "agentcgroup_memcg.ko"
ROOM = "bpf/kmod/"
TOOLS = ("gcc-14", "make", "pahole", "binutils", "libelf1t64", "libssl3t64")
KEEP = 8


def ensure(cache: Cache, checkout: Path, kernel: BootKernel) -> Path | None:
    """The module for this kernel; None for a role without one, or, said aloud, if it fails."""
    role = ROLES[kernel.role]
    if not role.module:
        return None
    names = [name for name in product.files(checkout) if name.startswith(ROOM)]
    if not names:
        return None
    tools = _tools(cache, role.suite.removesuffix("-backports"))
    parts = f"{product.content_hash(checkout, names)} {kernel.release} {tools.name}"
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]

    def build(work: Path) -> None:
        source = work / "source"
        product.copy(checkout, names, source)
        _make(tools / "root", _headers(cache, kernel), source / ROOM, kernel.release)
        shutil.copy(source / ROOM / NAME, work / NAME)
        shutil.rmtree(source)

    try:
        directory = cache.entry(f"kmod-{key}", build, f"building {NAME} for {kernel.release}")
    except GuestError as error:
        say(f"there will be no {NAME}: {error}")
        return None
    os.utime(directory)
    cache.prune("kmod", KEEP)
    return directory / NAME


def headers_image(cache: Cache, kernel: BootKernel) -> Path | None:
    """A disk with the kernel's headers, for /usr/src; None for a role without them, or, said
    aloud, if they can't be had."""
    if not ROLES[kernel.role].module:
        return None

    def build(work: Path) -> None:
        source = _headers(cache, kernel) / "usr/src"
        room = int(tree_size_bytes(source) * 1.3) + (16 << 20)
        make_ext4(work / "headers.img", room, source=source, label="headers")

    announce = f"making a disk of the headers of {kernel.release}"
    try:
        return cache.entry(f"headersdisk-{kernel.release}", build, announce) / "headers.img"
    except GuestError as error:
        say(f"there will be no headers of {kernel.release}: {error}")
        return None


def _tools(cache: Cache, suite: str) -> Path:
    key = hashlib.sha256(" ".join(TOOLS).encode()).hexdigest()[:12]

    def build(work: Path) -> None:
        options = [
            'APT::Install-Recommends "false";', 'Acquire::Languages "none";',
            *archive.transport_options(),
        ]  # fmt: skip
        command: list[str | Path] = [
            program("mmdebstrap"), "--mode=root", "--variant=apt", "--architectures=amd64",
            "--include=" + ",".join(TOOLS), *(f"--aptopt={option}" for option in options),
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
            suite, work / "root", "-",
        ]  # fmt: skip
        call(command, text=archive.mirror().line(suite) + "\n", timeout_s=1800)
        (work / "root/build").mkdir()

    return cache.entry(f"kmodtools-{suite}-{key}", build, f"building the {suite} compiler room")


def _headers(cache: Cache, kernel: BootKernel) -> Path:
    """What the kernel's packages of headers and build tools hold, unpacked."""
    flavour = kernel.release.removesuffix("-cloud-amd64")

    def build(work: Path) -> None:
        names = [
            f"linux-headers-{kernel.release}", f"linux-headers-{flavour}-common",
            f"linux-kbuild-{flavour}",
        ]  # fmt: skip
        for package in Archive(cache, ROLES[kernel.role].suite).download(names, work):
            call(["dpkg-deb", "-x", package, work])
            package.unlink()

    return cache.entry(f"headers-{kernel.release}", build, f"fetching headers of {kernel.release}")


def _make(root: Path, headers: Path, source: Path, release: str) -> None:
    """Run make in the room; its mounts end with its mount namespace."""
    inside = {"proc": root / "proc", "build": root / "build", "src": root / "usr/src"}
    kbuild = next((headers / "usr/lib").glob("linux-kbuild-*"))
    beside = root / "usr/lib" / kbuild.name
    beside.mkdir(exist_ok=True)
    mounts = (
        ("-t", "proc", "proc", inside["proc"]),
        ("--bind", source, inside["build"]),
        ("--bind", headers / "usr/src", inside["src"]),
        ("--bind", kbuild, beside),
    )
    make = ("chroot", root, "make", "-C", "/build", f"KERNEL={release}",
            f"HEADERS=/usr/src/linux-headers-{release}")  # fmt: skip
    lines = [shlex.join(str(word) for word in line) for line in (
        *(("mount", *mount) for mount in mounts), make,
    )]  # fmt: skip
    call(["unshare", "--mount", "sh", "-ec", "\n".join(lines)], environment={"LC_ALL": "C"})
