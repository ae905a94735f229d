# SPDX-License-Identifier: Apache-2.0
"""Limits of one tool call as the kernel gets them.

`None` means the kernel's own "max" (or its default weight). Source: kernel
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """memory_high is the grant; memory_max is the cap."""

    memory_high_bytes: int | None = None
    memory_max_bytes: int | None = None
    swap_max_bytes: int = 0
    pids_max: int = 512
    cpu_weight: int = 100
    cpu_max_cores: float | None = None
    io_weight: int = 100
    oom_group: bool = True

    def as_dict(self) -> dict[str, int | float | bool | None]:
        return {name: getattr(self, name) for name in self.__slots__}
