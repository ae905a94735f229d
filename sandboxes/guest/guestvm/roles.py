# SPDX-License-Identifier: Apache-2.0
"""Kernel roles: what each is for, and which of an archive's packages fills it. Pure.

Versions move in the archive, so a role names a rule. The rule orders the candidates; whoever
builds takes the first whose configuration has (or lacks) what the role needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SCHED_EXT = "CONFIG_SCHED_CLASS_EXT"
_NAME = re.compile(r"^linux-image-(\d+\.\d[^ ]*)-cloud-amd64$")


@dataclass(frozen=True)
class Role:
    """`suite` is searched for the kernel, `userland` is booted with it.

    `module`: the archive keeps this kernel's headers, and the module of bpf/kmod fits it.
    """

    name: str
    suite: str
    userland: str
    oldest: bool = False
    sched_ext: bool | None = None
    module: bool = False
    purpose: str = ""


ROLES = {
    role.name: role
    for role in (
        Role(
            "newest", "trixie-backports", "trixie", module=True,
            purpose="the newest kernel Debian offers",
        ),
        Role(
            "oldscx", "trixie-backports", "trixie", oldest=True, sched_ext=True,
            purpose="the oldest series with sched_ext",
        ),
        Role(
            "noscx", "trixie", "trixie", sched_ext=False, module=True,
            purpose="Debian 13's own kernel: no sched_ext, the fallback host",
        ),
        Role(
            "lts", "bookworm", "bookworm", sched_ext=False,
            purpose="Debian 12: the oldest supported host",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Kernel:
    """A kernel image package; ordered by version."""

    version: tuple[int, ...]
    release: str  # as `uname -r` prints it

    @property
    def package(self) -> str:
        return f"linux-image-{self.release}"

    @property
    def series(self) -> tuple[int, ...]:
        return self.version[:2]


def kernels(package_names: Iterable[str]) -> list[Kernel]:
    """The bootable cloud kernels among package names (no debug, unsigned or rc packages)."""
    found = set()
    for name in package_names:
        match = _NAME.match(name.strip())
        if match and "rc" not in match[1]:
            numbers = tuple(int(number) for number in re.findall(r"\d+", match[1]))
            found.add(Kernel(numbers, f"{match[1]}-cloud-amd64"))
    return sorted(found)


def candidates(role: Role, package_names: Iterable[str]) -> list[Kernel]:
    """One kernel a series (its newest build), in the order in which the role tries them."""
    by_series: dict[tuple[int, ...], Kernel] = {}
    for kernel in kernels(package_names):
        by_series[kernel.series] = kernel
    return sorted(by_series.values(), reverse=not role.oldest)


def fits(role: Role, kernel_config: str) -> bool:
    """Whether a kernel's configuration file has (or lacks) sched_ext as the role needs it."""
    if role.sched_ext is None:
        return True
    return (f"{SCHED_EXT}=y" in kernel_config.splitlines()) == role.sched_ext
