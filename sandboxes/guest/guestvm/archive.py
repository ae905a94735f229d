# SPDX-License-Identifier: Apache-2.0
"""Debian packages from this machine's mirror, for other suites than its own.

A private apt state per suite, so the machine's package lists stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from guestvm import sources
from guestvm.host import Cache, GuestError, call


def mirror() -> sources.Source:
    """The Debian mirror of this machine."""
    found: list[sources.Source] = []
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        found += sources.parse_deb822(path.read_text(encoding="utf-8", errors="replace"))
    one_line = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list")]
    for path in one_line:
        if path.exists():
            found += sources.parse_list(path.read_text(encoding="utf-8", errors="replace"))
    source = sources.debian_mirror(found)
    if source is None:
        raise GuestError(
            "no Debian mirror in this machine's apt configuration; "
            "add a `deb … bookworm main` entry to /etc/apt/sources.list"
        )
    return source


def transport_options() -> list[str]:
    return sources.transport_options(call(["apt-config", "dump"]))


class Archive:
    """One suite of the mirror: names of its packages, and their files."""

    def __init__(self, cache: Cache, suite: str) -> None:
        self.suite = suite
        self._state = cache.path(f"apt-{suite}")

    def update(self) -> None:
        for part in ("lists/partial", "cache/archives/partial"):
            (self._state / part).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        line = mirror().line(self.suite)
        (self._state / "sources.list").write_text(line + "\n", encoding="utf-8")
        self._apt("apt-get", "update")

    def names(self, pattern: str) -> list[str]:
        """Package names that match a regular expression."""
        every = self._apt("apt-cache", "pkgnames").split()
        return [name for name in every if re.search(pattern, name)]

    def version(self, package: str) -> str:
        text = self._apt("apt-cache", "show", package)
        match = re.search(r"^Version: (\S+)$", text, re.MULTILINE)
        return match[1] if match else "unknown"

    def kernel_packages(self, package: str) -> list[str]:
        """The image package and the parts that newer Debian kernels split off it."""
        text = self._apt("apt-cache", "show", package)
        depends = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
        parts = re.findall(r"\blinux-(?:binary|modules|base)-\d\S*", depends[1] if depends else "")
        return [package, *parts]

    def download(self, packages: list[str], directory: Path) -> list[Path]:
        self._apt("apt-get", "download", *packages, cwd=directory)
        return sorted(directory.glob("*.deb"))

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        settings = {
            "Dir::State": self._state,
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state / "cache",
            "Dir::Etc::sourcelist": self._state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return call([program, "-q", *options, *arguments], cwd=cwd)
