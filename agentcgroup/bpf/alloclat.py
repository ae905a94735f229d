# SPDX-License-Identifier: Apache-2.0
"""Latency of page faults and memory charges in sessions (bpf/alloclat.bcc.c)."""

from __future__ import annotations

from typing import Any

from ..errors import NotSupportedError
from .btf import Btf
from .instrument import Instrument

__all__ = ["AllocationLatency"]

# Where each is measured; the first that the kernel has.
_FUNCTIONS = {
    "fault": ("handle_mm_fault",),
    "charge": ("try_charge_memcg",),
    "over_high": ("__mem_cgroup_handle_over_high", "mem_cgroup_handle_over_high"),
}


class AllocationLatency(Instrument):
    """Of tasks below the tree's root, whose cgroup id and depth it is given."""

    program = "alloclat.bcc.c"
    operations = ("fault", "charge", "over_high")

    def __init__(self, bcc: Any, root_cgroup_id: int, root_level: int) -> None:
        found = _functions_of_kernel()
        self._functions = {name: found.get(name) for name in self.operations}
        flags = [f"-DHAVE_{function.upper()}" for function in found.values()]
        super().__init__(bcc, root_cgroup_id, root_level, flags)

    def about(self) -> dict[str, Any]:
        """Which kernel function is behind each operation, null where this kernel has none."""
        return {"functions": self._functions}


def _functions_of_kernel() -> dict[str, str]:
    """What can be measured here, and where; faults always can."""
    btf = Btf.of_kernel()
    try:
        found = {
            name: function
            for name, functions in _FUNCTIONS.items()
            for function in reversed(functions)
            if btf.function_parameters(function) is not None
        }
    finally:
        btf.close()
    if "fault" not in found:
        raise NotSupportedError("the kernel's BTF does not name handle_mm_fault")
    return found
