# SPDX-License-Identifier: Apache-2.0
"""Is an agent contained, or only advised? (DESIGN: trust boundary)

Contained is who has no cgroupfs write access, no CAP_SYS_ADMIN on the host, no container
engine's socket. What the kernel says of the agent's process decides: its capabilities, its
user namespace, and what is mounted where it lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cgroupfs import proc
from ..types.sessions import Containment

__all__ = ["AgentFacts", "judge", "look_at"]

_CAP_SYS_ADMIN = 21
_CAP_DAC_OVERRIDE = 1
_ENGINES = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock")
_ENGINE_SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
                   "/run/crio/crio.sock")  # fmt: skip
_NO_AGENT = "no agent is bound: what runs in the session is not known to be confined"


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """`capabilities` are the effective ones; `host_user`: in the daemon's user namespace;
    `own_mounts`: in another mount namespace; `engines`: sockets it can reach."""

    uid: int
    capabilities: int
    host_user: bool
    own_mounts: bool
    cgroupfs_writable: bool
    engines: tuple[str, ...]


def judge(facts: AgentFacts | None) -> tuple[Containment, str]:
    """With the reason, a sentence for people."""
    advisory = Containment.ADVISORY
    if facts is None:
        return advisory, _NO_AGENT
    if facts.uid == 0 and facts.host_user and not facts.own_mounts:
        why = "the agent runs as root on the host and can write the cgroup files itself"
        return advisory, why
    if facts.host_user and facts.capabilities >> _CAP_SYS_ADMIN & 1:
        return advisory, "the agent has CAP_SYS_ADMIN on the host"
    if facts.engines:
        return advisory, f"the agent can reach a container engine ({', '.join(facts.engines)})"
    overrides = facts.uid == 0 or bool(facts.capabilities >> _CAP_DAC_OVERRIDE & 1)
    if facts.host_user and facts.cgroupfs_writable and overrides:
        return advisory, "cgroup files are mounted writable where the agent runs as root"
    why = f"the agent runs as uid {facts.uid} without write access to the cgroup files"
    return Containment.ENFORCED, why


def look_at(pid: int, uid: int) -> AgentFacts:
    """Of a process that lives; what can't be read counts as not there."""
    mounts = proc.lines(f"/proc/{pid}/mountinfo")
    status = dict(
        line.split(":\t", 1) for line in proc.lines(f"/proc/{pid}/status") if ":\t" in line
    )
    # PID 1's: a service may have mounts of its own, and so may the daemon.
    host_mounts = proc.namespace_id(1, "mnt") or proc.namespace_id("self", "mnt")
    own_mounts = proc.namespace_id(pid, "mnt") != host_mounts
    groups = {int(word) for word in status.get("Groups", "").split()}
    groups |= {int(word) for word in status.get("Gid", "").split()}
    reachable = engines_mounted(mounts) if own_mounts else _engines_open_to(uid, groups)
    return AgentFacts(
        uid=uid,
        capabilities=int(status.get("CapEff", "0"), 16),
        host_user=proc.namespace_id(pid, "user") == proc.namespace_id("self", "user"),
        own_mounts=own_mounts,
        cgroupfs_writable=cgroupfs_is_writable(mounts),
        engines=reachable,
    )


def cgroupfs_is_writable(mountinfo: Iterable[str]) -> bool:
    """Some cgroup2 mount there is not read-only (proc_pid_mountinfo(5))."""
    for line in mountinfo:
        before, separator, after = line.partition(" - ")
        if separator and after.startswith("cgroup2 ") and "ro" not in before.split()[5].split(","):
            return True
    return False


def engines_mounted(mountinfo: Iterable[str]) -> tuple[str, ...]:
    """Where a container engine's socket is mounted, by the name of either end."""
    found = []
    for line in mountinfo:
        fields = line.split()
        if len(fields) > 5 and any(end.endswith(_ENGINES) for end in fields[3:5]):
            found.append(fields[4])
    return tuple(found)


def _engines_open_to(uid: int, groups: set[int]) -> tuple[str, ...]:
    """Sockets of the host's engines that this user may write to."""
    found = []
    for socket in _ENGINE_SOCKETS:
        try:
            info = Path(socket).stat()
        except OSError:
            continue
        mode = info.st_mode
        mine = (mode & 0o200 and info.st_uid == uid) or (mode & 0o020 and info.st_gid in groups)
        if uid == 0 or mine or mode & 0o002:
            found.append(socket)
    return tuple(found)
