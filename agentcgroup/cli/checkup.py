# SPDX-License-Identifier: Apache-2.0
"""The facts behind `doctor`: a running daemon's answers, else our own probes.

The daemon is asked first because it has the rights and the tree; what it cannot know
(how this command's own installation is) is looked at here in any case.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..client import Client
from ..client.child import static_launcher
from ..errors import AgentCgroupError, DaemonUnavailableError
from ..types.capabilities import Answer

__all__ = ["examine"]

_NOT_ASKED = "could not tell"
_NEWER_KERNEL = "a newer kernel has it; without it cgroup files are used"
_REMEDY = {
    "daemon": "start it: systemctl start agentcgroupd, or sudo agentcgroupd",
    "admin socket": "use sudo, or join the group agentcgroup",
    "agentcgroup-run": "install a wheel that was built with a C compiler",
    "cgroup2": "boot with systemd.unified_cgroup_hierarchy=1",
    "probes": "run doctor as root, or start the daemon",
    "SO_PEERPIDFD": "Linux 6.5 or newer; until then only administrators can use the daemon",
    "swap": "none needed: calls get no swap unless they ask",
    "memory.reclaim": "Linux 5.19 or newer",
    "memory.peak": "Linux 5.19 or newer; peaks are sampled instead",
    "memory.pressure": "boot with psi=1",
    "cgroup.kill": "Linux 5.14 or newer",
    "xattr": "Linux 5.7 or newer",
    "io.weight": "enable io.cost or the BFQ scheduler; io.max is used instead",
    "io.max": "needs a block device under the file system in use",
    "libbpf": "install libbpf 1.3 or newer (Debian: libbpf1)",
    "btf": "a kernel with CONFIG_DEBUG_INFO_BTF=y",
    "bpf_syscall": "run as root, or with CAP_BPF and CAP_PERFMON",
    "ring_buffer": "Linux 5.8 or newer",
    "tracing": "install a wheel that was built with clang; needs root and kernel BTF",
    "sched_ext": "Linux 6.12 or newer with CONFIG_SCHED_CLASS_EXT=y; cpu.weight is used instead",
    "scheduler": "optional, off by default: agentcgroupd --cpu sched_ext",
    "memcg_struct_ops": "optional: bpf/kmod brings it; memory.high and events are used without",
    "cgroup_kfuncs": _NEWER_KERNEL,
    "exec_hook": _NEWER_KERNEL,
    "exec_boundary": "the process connector is used instead, with the race that it says",
    "process connector": "optional: BPF is better; needs root and agentcgroup[host]",
    "exit_hook": _NEWER_KERNEL,
    "oom_hook": _NEWER_KERNEL,
    "memory_hook": _NEWER_KERNEL,
    "charge_failed_hook": _NEWER_KERNEL,
}
_REMEDY_OTHERWISE = "delegate the controller to the daemon's cgroup, or use a newer kernel"

Fact = tuple[str, str, str]


def examine() -> dict[str, Any]:
    """`source` (daemon or local) and `capabilities`: name, answer, reason, remedy."""
    facts: list[Fact] = []
    probed: list[Fact] | None = None
    try:
        version = Client().version(retry=False)
        facts.append(("daemon", "yes", f"version {version.version} answers"))
        probed = _of_daemon(facts)
    except DaemonUnavailableError as absent:
        facts.append(("daemon", "no", str(absent)))
    except AgentCgroupError as problem:
        facts.append(("daemon", _NOT_ASKED, str(problem)))
    facts += _of_installation()
    source = "daemon" if probed is not None else "local"
    facts += probed if probed is not None else _local()
    return {"source": source, "capabilities": [_row(*fact) for fact in facts]}


def _row(name: str, answer: str, reason: str) -> dict[str, str]:
    remedy = (
        "" if answer == Answer.YES else _REMEDY.get(name.removeprefix("bpf "), _REMEDY_OTHERWISE)
    )
    return {"name": name, "answer": answer, "reason": reason, "remedy": remedy}


def _of_daemon(facts: list[Fact]) -> list[Fact] | None:
    try:
        capabilities = Client().probe()["capabilities"]
    except AgentCgroupError as problem:
        facts.append(("admin socket", "no", str(problem)))
        return None
    facts.append(("admin socket", "yes", "answers"))
    return [(str(c["name"]), str(c["answer"]), str(c.get("reason", ""))) for c in capabilities]


def _of_installation() -> Iterator[Fact]:
    program = static_launcher()
    if program is None:
        yield "agentcgroup-run", "no", "not installed; `run` and the SDK are slower without it"
    else:
        yield "agentcgroup-run", "yes", program


def _local() -> list[Fact]:
    from ..bpf.probe import probe_all as probe_bpf  # noqa: PLC0415
    from ..cgroupfs import proc  # noqa: PLC0415

    facts = [_peer_pidfd()]
    mount = proc.cgroup2_mount_point()
    if mount is None:
        facts.append(("cgroup2", "no", "cgroup v2 is not mounted here"))
    else:
        facts.append(("cgroup2", "yes", f"mounted at {mount}"))
        facts += _of_files()
    return [*facts, *_facts(probe_bpf()), _connector(), _scheduler()]


def _connector() -> Fact:
    from ..daemon.exec_source import connector_finding  # noqa: PLC0415

    return "process connector", *connector_finding()


def _scheduler() -> Fact:
    from ..bpf.sched_plan import loaded_scheduler  # noqa: PLC0415

    loaded = loaded_scheduler()
    by = f"{loaded} is loaded" if loaded else "the kernel's own is active"
    return "scheduler", "no", f"{by}, and no daemon was asked"


def _peer_pidfd() -> Fact:
    from ..daemon.identity import peer_pidfd_offered  # noqa: PLC0415

    try:
        offered = peer_pidfd_offered()
    except OSError as problem:
        return "SO_PEERPIDFD", _NOT_ASKED, str(problem)
    if offered:
        return "SO_PEERPIDFD", "yes", "the kernel tells who connects"
    return "SO_PEERPIDFD", "no", "the kernel cannot tell who connects, so agents are refused"


def _of_files() -> list[Fact]:
    """Needs a cgroup of our own to try things on; it is removed again."""
    from ..cgroupfs.probe import probe_all as probe_files  # noqa: PLC0415
    from ..daemon.rooting import open_root  # noqa: PLC0415

    if os.geteuid() != 0:
        return [("probes", _NOT_ASKED, "cgroup files are probed by root only")]
    try:
        root, made = open_root(f"agentcgroup-doctor-{os.getpid()}")
    except AgentCgroupError as problem:
        return [("probes", _NOT_ASKED, str(problem))]
    try:
        return _facts(probe_files(root))
    finally:
        if made:
            with contextlib.suppress(OSError):
                root.remove()
        root.close()


def _facts(findings: Iterable[Any]) -> list[Fact]:
    return [(found.name, found.answer.value, found.reason) for found in findings]
