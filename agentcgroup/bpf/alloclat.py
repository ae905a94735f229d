# SPDX-License-Identifier: Apache-2.0
"""Latency of page faults and memory charges in sessions, measured by BCC (optional).

BCC is Debian's python3-bpfcc, not the project of that name in the Python registry. It
compiles bpf/alloclat.bcc.c against the kernel's headers, which takes seconds and some
130 MiB: an instrument for a person, nothing that the daemon uses.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import NotPermittedError, NotSupportedError
from .btf import Btf
from .latency import Latency
from .objects import BUILT

__all__ = ["OPERATIONS", "AllocationLatency", "load_bcc"]

# As in `enum what` of the program, and where it measures.
OPERATIONS = ("fault", "charge", "over_high")
_FUNCTIONS = {
    "fault": ("handle_mm_fault",),
    "charge": ("try_charge_memcg",),
    "over_high": ("__mem_cgroup_handle_over_high", "mem_cgroup_handle_over_high"),
}
_PROGRAM = "alloclat.bcc.c"
_SOURCE_TREE = Path(__file__).resolve().parents[2] / "bpf"
_KERNEL_HEADERS_ARCHIVE = Path("/sys/kernel/kheaders.tar.xz")


class AllocationLatency:
    """Attached from its construction until `close`. Reads are cumulative.

    `bcc` is from `load_bcc`. NotSupportedError says what this kernel lacks.
    """

    def __init__(self, bcc: Any, root_cgroup_id: int, root_level: int) -> None:
        found = _functions_of_kernel()
        self.functions = {name: found[name] for name in OPERATIONS if name in found}
        flags = [f"-DROOT_ID={root_cgroup_id}ULL", f"-DROOT_LEVEL={root_level}"]
        flags += [f"-DHAVE_{function.upper()}" for function in self.functions.values()]
        self._bpf = _compiled(bcc, _program_text(), flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._bpf.cleanup()

    def read(self) -> dict[int, dict[str, Latency]]:
        """By cgroup id of the session, what was measured in it so far."""
        counts: dict[tuple[int, int], dict[int, int]] = {}
        for key, value in self._bpf["buckets"].items():
            counts.setdefault((key.session, key.what), {})[key.bucket] = value.value
        found: dict[int, dict[str, Latency]] = {}
        for key, per_cpu in self._bpf["totals"].items():
            place = (key.session, key.what)
            latency = _summed(per_cpu, counts.get(place, {}))
            found.setdefault(key.session, {})[OPERATIONS[key.what]] = latency
        return found


def _summed(per_cpu: Iterable[Any], buckets: Mapping[int, int]) -> Latency:
    rows = [(cpu.count, cpu.sum_ns, cpu.max_ns) for cpu in per_cpu]
    return Latency(
        count=sum(row[0] for row in rows),
        sum_ns=sum(row[1] for row in rows),
        max_ns=max((row[2] for row in rows), default=0),
        buckets=buckets,
    )


def load_bcc() -> Any:
    """The module. NotPermittedError without root; NotSupportedError says what to install."""
    if os.geteuid() != 0:
        raise NotPermittedError("measuring allocation latency needs root: use sudo")
    try:
        bcc = importlib.import_module("bcc")
    except ImportError as problem:
        raise NotSupportedError(
            "this instrument needs BCC: apt install python3-bpfcc, and a Python that sees"
            f" Debian's packages ({problem})"
        ) from None
    if not hasattr(bcc, "BPF"):
        raise NotSupportedError(
            "the package 'bcc' here is another project: remove it, apt install python3-bpfcc"
        )
    _check_headers()
    return bcc


def _check_headers() -> None:
    release = platform.release()
    build = Path(os.environ.get("BCC_KERNEL_SOURCE") or f"/lib/modules/{release}/build")
    if not build.exists() and not _KERNEL_HEADERS_ARCHIVE.exists():
        raise NotSupportedError(
            f"BCC needs the kernel's headers, and {build} is not there:"
            f" apt install linux-headers-{release}"
        )


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


def _program_text() -> str:
    for folder in (BUILT, _SOURCE_TREE):
        try:
            return (folder / _PROGRAM).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
    raise NotSupportedError(f"{_PROGRAM} is not installed: install a complete wheel")


def _compiled(bcc: Any, text: str, flags: list[str]) -> Any:
    said: list[str] = []
    try:
        with _standard_error(said):
            return bcc.BPF(text=text, cflags=flags)
    except Exception as problem:  # BCC raises bare ones
        reason = next((line for line in said if "error" in line.lower()), str(problem))
        raise NotSupportedError(
            f"BCC cannot load the program on kernel {platform.release()}: {reason.strip()}"
        ) from None


@contextmanager
def _standard_error(said: list[str]) -> Iterator[None]:
    """Keep what the compiler prints, also from C; its lines are in `said` afterwards."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile("w+b") as sink:
            os.dup2(sink.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                sink.seek(0)
                said += sink.read().decode(errors="replace").splitlines()
    finally:
        os.close(kept)
