# SPDX-License-Identifier: Apache-2.0
"""The Debian userland that boots with a kernel: packages, Python dependencies, no product.

The product and this directory's scripts come on a disk of their own (product.py), so a changed
checkout does not mean a new userland.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from guestvm import archive
from guestvm.host import Cache, GuestError, call, make_ext4, program

KEEP = 2  # two checkouts with different dependencies can take turns
RECIPE_VERSION = 2  # raise it to rebuild images after a change to this file
IMAGE_SIZE_BYTES = 8 << 30  # virtual; the file is sparse
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "iproute2", "kmod", "procps", "util-linux", "psmisc",
    "python3", "python3-venv", "libbpf1", "bpftool", "runc", "iptables",
    "busybox-static", "stress-ng", "gcc", "make", "libc6-dev", "git", "sqlite3", "strace",
    "ca-certificates", "xz-utils", "zstd", "file", "acl", "attr", "e2fsprogs",
)  # fmt: skip


@dataclass(frozen=True)
class Userland:
    suite: str
    python: str
    packages: tuple[str, ...]


USERLANDS = {
    "trixie": Userland("trixie", "3.13", (*PACKAGES, "docker.io", "docker-cli", "python3-bpfcc")),
    "bookworm": Userland("bookworm", "3.11", (*PACKAGES, "docker.io", "apparmor")),
}

SETUP = """
set -e
cd /wheels
PYTHONPATH=$(echo /wheels/pip-*.whl) python3 -m pip install --no-index --find-links=/wheels \\
    --break-system-packages --root-user-action=ignore --quiet -r requirements.txt
PYTHONPATH=$(echo /wheels/pip-*.whl) python3 -m pip install --no-index --find-links=/wheels \\
    --break-system-packages --root-user-action=ignore --quiet --no-deps -r alone.txt
cd /
rm -rf /wheels
mkdir -p /src /mnt/share /mnt/out /opt/agentcgroup /etc/docker
# No network inside: a bridge would only need modules and time.
echo '{"bridge": "none", "iptables": false}' > /etc/docker/daemon.json
for unit in docker.service docker.socket containerd.service; do
    rm -f /etc/systemd/system/*.wants/$unit
done
echo agentcgroup-guest > /etc/hostname
printf '127.0.0.1 localhost agentcgroup-guest\\n::1 localhost\\n' > /etc/hosts
echo /opt/agentcgroup/site > $(echo /usr/local/lib/python3.*/dist-packages)/agentcgroup.pth
: > /etc/machine-id
rm -f /etc/resolv.conf
passwd -d root > /dev/null
"""


def requirements(pyproject: str, extras: tuple[str, ...] = ("host", "dev")) -> list[str]:
    """Core and extra dependencies of a pyproject.toml text, its references to itself resolved."""
    project = tomllib.loads(pyproject)["project"]
    optional = project.get("optional-dependencies", {})
    itself = re.compile(rf"^{re.escape(project['name'])}\[([^\]]*)\]$")
    found = set(project.get("dependencies", []))
    todo, done = list(extras), set()
    while todo:
        extra = todo.pop()
        if extra in done:
            continue
        done.add(extra)
        for entry in optional.get(extra, []):
            match = itself.match(entry)
            if match:
                todo += [name.strip() for name in match[1].split(",")]
            else:
                found.add(entry)
    return sorted(found)


def without_dependencies(pyproject: str) -> list[str]:
    """What the tests want alone, for its dependencies are large and not needed."""
    wanted: list[str] = tomllib.loads(pyproject)["tool"]["agentcgroup"]["without-dependencies"]
    return wanted


def builder(cache: Cache, build_requirements: list[str]) -> Path:
    """A private Python environment with pip and the build backend; returns its interpreter."""
    key = hashlib.sha256(json.dumps(sorted(build_requirements)).encode()).hexdigest()[:12]

    def build(work: Path) -> None:
        # Made in its final place: an environment cannot be moved.
        final = cache.path(f"builder-{key}.env")
        shutil.rmtree(final, ignore_errors=True)
        call([shutil.which("python3") or "python3", "-m", "venv", final])
        call([final / "bin/python", "-m", "pip", "install", "-q", *build_requirements])
        (work / "ready").touch()

    cache.entry(f"builder-{key}", build, "preparing the wheel builder")
    return cache.path(f"builder-{key}.env") / "bin/python"


@dataclass(frozen=True)
class Built:
    """A userland in the cache: its disk, and its interpreter for use on this machine."""

    directory: Path
    python_version: str

    @property
    def image(self) -> Path:
        return self.directory / "root.img"

    def compile(self, tree: Path, path_inside: str) -> None:
        """Byte-compile a tree with the guest's own Python, for where it will be mounted.

        Nothing inside can write beside the product's read-only files, and compiling them again
        at every start of a command costs seconds under emulation.
        """
        interpreter = self.directory / "python"
        libraries = interpreter / "lib"
        call(
            [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries,
             interpreter / "usr/bin/python3", "-S", "-m", "compileall", "-q",
             "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", path_inside, tree],
            environment={"PYTHONHOME": str(interpreter / "usr")},
        )  # fmt: skip


def ensure(cache: Cache, suite: str, source_tree: Path) -> Built:
    """The userland, built if this recipe and these dependencies are new."""
    userland = USERLANDS[suite]
    text = (source_tree / "pyproject.toml").read_text(encoding="utf-8")
    wanted, alone = requirements(text), without_dependencies(text)
    recipe = [RECIPE_VERSION, SETUP, suite, userland.python, userland.packages, wanted, alone]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    build_requirements = tomllib.loads(text)["build-system"]["requires"]

    def build(work: Path) -> None:
        wheels = work / "wheels"
        wheels.mkdir()
        pip = builder(cache, build_requirements)
        _download_wheels(pip, userland.python, ["pip", *wanted], wheels)
        _download_wheels(pip, userland.python, alone, wheels, "--no-deps")
        for name, lines in (("requirements.txt", wanted), ("alone.txt", alone)):
            (wheels / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        _bootstrap(userland, wheels, work / "root")
        shutil.rmtree(wheels)
        _keep_interpreter(work / "root", userland.python, work / "python")
        make_ext4(work / "root.img", IMAGE_SIZE_BYTES, source=work / "root", label="root")
        shutil.rmtree(work / "root")

    announce = f"building the Debian {suite} userland (once, some minutes)"
    directory = cache.entry(f"userland-{suite}-{key}", build, announce)
    os.utime(directory)
    cache.prune(f"userland-{suite}", KEEP)
    return Built(directory, userland.python)


def _keep_interpreter(root: Path, version: str, target: Path) -> None:
    """Copy what the guest's Python needs to run here, under its own C library."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    (target / "usr/bin").mkdir(parents=True)
    (target / "lib").mkdir()
    shutil.copy(root / f"usr/bin/python{version}", target / "usr/bin/python3")
    shutil.copytree(
        root / f"usr/lib/python{version}", target / f"usr/lib/python{version}",
        ignore=shutil.ignore_patterns("__pycache__", "config-*", "sitecustomize.py", "test"),
    )  # fmt: skip
    for pattern in ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1"):
        shutil.copy(libraries / pattern, target / "lib" / pattern)


def _download_wheels(
    python: Path, version: str, wanted: list[str], target: Path, *options: str
) -> None:
    call(
        [python, "-m", "pip", "download", "-q", "--python-version", version,
         "--only-binary=:all:", *options, "-d", target, *wanted],
    )  # fmt: skip


def _bootstrap(userland: Userland, wheels: Path, root: Path) -> None:
    setup = wheels / "setup.sh"
    setup.write_text(SETUP, encoding="utf-8")
    source = archive.mirror()
    options = [
        'APT::Install-Recommends "false";', 'Acquire::Languages "none";',
        *archive.transport_options(),
    ]  # fmt: skip
    excluded = ("doc", "man", "locale", "info", "lintian", "bug")
    command: list[str | Path] = [
        program("mmdebstrap"), "--mode=root", "--variant=apt", "--skip=check/empty",
        "--architectures=amd64", "--include=" + ",".join(userland.packages),
        *(f"--aptopt={option}" for option in options),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in excluded),
        f'--customize-hook=cp -r "{wheels}" "$1/wheels"',
        '--customize-hook=chroot "$1" sh /wheels/setup.sh',
        userland.suite, root, "-",
    ]  # fmt: skip
    try:
        call(command, text=source.line(userland.suite) + "\n", timeout_s=1800)
    except GuestError as error:
        raise GuestError(f"{error}\n  (building images needs root: {userland.suite})") from error
