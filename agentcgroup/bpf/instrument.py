# SPDX-License-Identifier: Apache-2.0
"""What the instruments of `agentcgroup observe` share: a program for BCC (optional), its results.

BCC is Debian's python3-bpfcc, not the project of that name in the Python registry. It
compiles a bpf/*.bcc.c against the kernel's headers, which takes seconds and some 130 MiB:
an instrument for a person, nothing that the daemon uses.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from ..errors import NotPermittedError, NotSupportedError
from .latency import Latency
from .objects import BUILT

__all__ = ["Instrument", "load_bcc"]

_COMMON = "latency.bcc.h"
_SOURCE_TREE = Path(__file__).resolve().parents[2] / "bpf"
_KERNEL_HEADERS_ARCHIVE = Path("/sys/kernel/kheaders.tar.xz")


class Instrument:
    """Attached from its construction until `close`. Reads are cumulative.

    `bcc` is from `load_bcc`. NotSupportedError says what this kernel lacks.
    """

    program: ClassVar[str]
    operations: ClassVar[Sequence[str]]
    """As in `enum what` of the program."""

    def __init__(self, bcc: Any, root_cgroup_id: int, root_level: int, flags: list[str]) -> None:
        text = _program_text(_COMMON) + _program_text(self.program)
        own = [f"-DROOT_ID={root_cgroup_id}ULL", f"-DROOT_LEVEL={root_level}"]
        with _one_line_if_it_fails():
            self._bpf = bcc.BPF(text=text, cflags=[*own, *flags])
            self._attach()

    def _attach(self) -> None:
        """What BCC does not attach by the names of the functions."""

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

    def look(self) -> None:
        """To be called now and then: what only shows while it measures."""

    def about(self) -> dict[str, Any]:
        """What was measured with or under, for the JSON of the result."""
        return {}

    def read(self) -> dict[int, dict[str, Latency]]:
        """By cgroup id of the session, what was measured in it so far."""
        counts: dict[tuple[int, int], dict[int, int]] = {}
        for key, value in self._bpf["buckets"].items():
            counts.setdefault((key.session, key.what), {})[key.bucket] = value.value
        found: dict[int, dict[str, Latency]] = {}
        for key, per_cpu in sorted(self._bpf["totals"].items(), key=lambda item: item[0].what):
            place = (key.session, key.what)
            latency = _summed(per_cpu, counts.get(place, {}))
            found.setdefault(key.session, {})[self.operations[key.what]] = latency
        return found

    def lost_count(self) -> int:
        """Durations that `read` misses in part or whole, because a table was full."""
        return sum(value.value for value in self._bpf["lost"].values())


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
        raise NotPermittedError("this instrument needs root: use sudo")
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


def _program_text(name: str) -> str:
    for folder in (BUILT, _SOURCE_TREE):
        try:
            return (folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
    raise NotSupportedError(f"{name} is not installed: install a complete wheel")


@contextmanager
def _one_line_if_it_fails() -> Iterator[None]:
    """BCC raises bare exceptions, and what tells why is printed by the compiler or verifier."""
    said: list[str] = []
    try:
        with _standard_error(said):
            yield
    except Exception as problem:
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
