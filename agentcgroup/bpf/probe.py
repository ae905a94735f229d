# SPDX-License-Identifier: Apache-2.0
"""What BPF can do here, one capability at a time: yes, no, or could not tell, with a reason.

Yes and no are remembered for the life of the process, "could not tell" is asked again, and
so is what a kernel module can bring or take away.
Nothing is inferred from a version. `tracing` and the ring buffer count only after the
kernel really took one; the others read the kernel's BTF.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import InconclusiveError, NotSupportedError
from .boundary import probe_boundary
from .btf import Btf
from .choose import TOOLCALL_OBJECT, choose, gather
from .libbpf import load_libbpf
from .memcg_ops import find_offer
from .objects import load_object
from .sched_plan import make_plan
from .tracefs import has_event

__all__ = ["Answer", "Finding", "forget", "probe", "probe_all"]

_BTF_DIRECTORY = Path("/sys/kernel/btf")
_CGROUP_KFUNCS = (
    "bpf_cgroup_from_id", "bpf_cgroup_release", "bpf_get_mem_cgroup", "bpf_put_mem_cgroup",
    "bpf_mem_cgroup_usage",
)  # fmt: skip
_MAP_TYPE_ARRAY = 2
_MAP_TYPE_RINGBUF = 27
# modules come and go
_CHANGING = {"memcg_struct_ops"}
# nothing is lost if it runs meanwhile: it notes which memcg ran out
_HARMLESS_TRACER = "acg_oom_begin"


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability. `reason` is a sentence for the one who reads `doctor`."""

    name: str
    answer: Answer
    reason: str


_Result = tuple[Answer, str]
_known: dict[str, Finding] = {}


def probe(name: str) -> Finding:
    """The answer for one capability of `probe_all`."""
    if name in _known:
        return _known[name]
    try:
        answer, reason = _PROBES[name]()
    except NotSupportedError as error:
        answer, reason = Answer.NO, str(error)
    except (InconclusiveError, OSError) as error:
        answer, reason = Answer.UNKNOWN, str(error)
    finding = Finding(name, answer, reason)
    if answer is not Answer.UNKNOWN and name not in _CHANGING:
        _known[name] = finding
    return finding


def probe_all() -> list[Finding]:
    """Every capability, the ones that others build on first."""
    return [probe(name) for name in _PROBES]


def forget() -> None:
    """Ask everything again, as after a kernel module was loaded."""
    _known.clear()


def _libbpf() -> _Result:
    return Answer.YES, f"libbpf {load_libbpf().version.removeprefix('v')}"


def _btf() -> _Result:
    Btf.of_kernel().close()
    return Answer.YES, f"the kernel describes its types in {_BTF_DIRECTORY}/vmlinux"


def _bpf_syscall() -> _Result:
    return _create_map(_MAP_TYPE_ARRAY, 4, 8, 1, "bpf() may be called")


def _ring_buffer() -> _Result:
    return _create_map(
        _MAP_TYPE_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE"), "the kernel has BPF ring buffers"
    )


def _create_map(
    map_type: int, key_bytes: int, value_bytes: int, entries: int, success: str
) -> _Result:
    library = load_libbpf()
    created = library.bpf_map_create(map_type, b"acg_probe", key_bytes, value_bytes, entries, None)
    if created >= 0:
        os.close(created)
        return Answer.YES, success
    return _explain_refusal(-created)


def _explain_refusal(number: int) -> _Result:
    """What an errno of bpf() says about the kernel and the caller."""
    if number in (errno.EPERM, errno.EACCES):
        return Answer.NO, "bpf() is not permitted: needs root, or CAP_BPF and CAP_PERFMON"
    if number == errno.ENOSYS:
        return Answer.NO, "the kernel is built without bpf()"
    if number == errno.EINVAL:
        return Answer.NO, "the kernel does not know this kind of BPF map"
    return Answer.UNKNOWN, f"bpf() failed: {os.strerror(number)}"


def _tracing() -> _Result:
    loaded, refused = load_object(TOOLCALL_OBJECT, [_HARMLESS_TRACER], lambda _opened: None)
    if loaded is None:
        return Answer.NO, f"fentry programs: {refused[_HARMLESS_TRACER]}"
    try:
        loaded.attach(_HARMLESS_TRACER)
    finally:
        loaded.close()
    return Answer.YES, "a program was attached to a kernel function and removed again"


def _hook(capability: str) -> Callable[[], _Result]:
    def ask() -> _Result:
        kernel = Btf.of_kernel()
        try:
            choice = choose(
                gather(kernel.function_parameters, kernel.tracepoint_parameters, has_event)
            )
        finally:
            kernel.close()
        if capability in choice.missing:
            return Answer.NO, choice.missing[capability]
        programs = next(p for c, p in choice.chosen.items() if c.name == capability)
        return Answer.YES, f"by {', '.join(f'{p.hook}/{p.target}' for p in programs)}"

    return ask


def _exec_boundary() -> _Result:
    return Answer.YES, f"commands are stopped at their exec by {probe_boundary()}"


def _sched_ext() -> _Result:
    plan = make_plan()
    limits = "reads cpu.max and cpu.idle from it" if plan.unfit else "is told cpu.max and cpu.idle"
    return Answer.YES, f"the kernel takes our scheduler, which {limits}"


def _memcg_struct_ops() -> _Result:
    offer = find_offer()
    return Answer.YES, f"{offer.by} offers memcg hooks"


def _cgroup_kfuncs() -> _Result:
    kernel = Btf.of_kernel()
    try:
        absent = [f for f in _CGROUP_KFUNCS if kernel.function_parameters(f) is None]
    finally:
        kernel.close()
    if absent:
        return Answer.NO, f"the kernel has no {', '.join(absent)}"
    return Answer.YES, "programs can read a memcg's figures through kfuncs"


_PROBES: dict[str, Callable[[], _Result]] = {
    "libbpf": _libbpf,
    "btf": _btf,
    "bpf_syscall": _bpf_syscall,
    "ring_buffer": _ring_buffer,
    "tracing": _tracing,
    "exec_hook": _hook("exec"),
    "exec_boundary": _exec_boundary,
    "exit_hook": _hook("exit"),
    "oom_hook": _hook("oom"),
    "memory_hook": _hook("memory"),
    "charge_failed_hook": _hook("charge_failed"),
    "sched_ext": _sched_ext,
    "memcg_struct_ops": _memcg_struct_ops,
    "cgroup_kfuncs": _cgroup_kfuncs,
}
