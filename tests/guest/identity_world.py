# SPDX-License-Identifier: Apache-2.0
"""Two sessions, A and B, and puppets of every kind in and around them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import PrivateDaemon, enter_cgroup, leaf_state

PUPPET = Path(__file__).with_name("identity_puppet.py")
# What Docker grants by default.
DOCKER_CAPABILITIES = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap",
)  # fmt: skip
_BOUNDING = ",".join(["-all", *(f"+{name}" for name in DOCKER_CAPABILITIES)])
_CONTAINER = (
    "mount --make-rprivate / && mount -o remount,bind,ro /sys/fs/cgroup &&"
    f" exec setpriv --bounding-set={_BOUNDING} --inh-caps=-all \"$@\""
)  # fmt: skip
WHO = {
    "user": ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"],
    "container root": ["unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child",
                       "sh", "-c", _CONTAINER, "sh"],
    "root": [],
}  # fmt: skip


class Puppet:
    """Does what `do` says, as `who`, in `cgroup`; inherits `fds`."""

    def __init__(self, daemon: PrivateDaemon, who: str, cgroup: Path, fds: list[int]) -> None:
        self.socket = str(daemon.socket)
        self.process = subprocess.Popen(
            [*WHO[who], sys.executable, "-I", str(PUPPET)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds, cwd="/",
            preexec_fn=lambda: enter_cgroup(cgroup),  # noqa: PLW1509
        )  # fmt: skip
        self.hello = self._read()
        self.do("connect", path=self.socket)

    def do(self, deed: str, **details: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": deed, **details}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def ask(self, method: str, fd: int | str | None = None, **params: Any) -> str:
        """The error's kind, or "ok"."""
        return kind_of(self.do("request", method=method, params=params, fd=fd))

    def result(self, method: str, fd: int | str | None = None, **params: Any) -> dict[str, Any]:
        said = self.do("request", method=method, params=params, fd=fd)
        assert "result" in said, said
        found: dict[str, Any] = said["result"]
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the puppet ended with status {self.process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found


class World:
    """A daemon with the sessions A and B; each has a call that sleeps."""

    def __init__(self, daemon: PrivateDaemon, pids_max: int = 200) -> None:
        self.daemon = daemon.start()
        self._puppets: dict[tuple[str, str], Puppet] = {}
        self.calls: dict[str, str] = {}
        self.processes: dict[str, int] = {}
        for name in ("A", "B"):
            daemon.client.create_session(name, memory="200M", pids_max=pids_max)
            shim = daemon.shim("sleep", "900", session=name, options=["--memory", "16M"])
            self.calls[name] = daemon.call_of(shim)
            self.processes[name] = shim.child_pid or 0
        agent = self.place("B", "agent")
        self.agent_of_b = subprocess.Popen(
            ["sleep", "900"], preexec_fn=lambda: enter_cgroup(agent)  # noqa: PLW1509
        )  # fmt: skip
        assert daemon.process is not None
        self.victims = {
            "PID 1": 1,
            "a kernel thread": 2,
            "the daemon": daemon.process.pid,
            "a tool of session B": self.processes["B"],
            "the agent of session B": self.agent_of_b.pid,
            "another tool of session A": self.processes["A"],
            "the test": os.getpid(),
        }
        self.pidfds = {name: os.pidfd_open(pid) for name, pid in self.victims.items()}

    def place(self, session: str, place: str) -> Path:
        if place == "outside":
            return Path("/sys/fs/cgroup")
        below = {"agent": "agent", "leaf": f"tools/{self.calls[session]}"}[place]
        return self.daemon.root / session / below

    def puppet(self, who: str, place: str, *, fresh: bool = False) -> Puppet:
        """In session A, or outside of every session. Shared by the tests unless fresh."""
        made = None if fresh else self._puppets.get((who, place))
        if made is None:
            made = Puppet(self.daemon, who, self.place("A", place), [*self.pidfds.values()])
            key = (who, f"{place} {len(self._puppets)}" if fresh else place)
            self._puppets[key] = made
        return made

    def everything(self) -> dict[str, Any]:
        """What nobody in session A may change."""
        client = self.daemon.client
        whole = {
            "cgroups": {name: cgroup_of(pid) for name, pid in self.victims.items()},
            "calls of B": {c.call: c.limits for c in client.calls("B") if c.state != "ended"},
            "leaf of B": leaf_state(self.place("B", "leaf")),
        }
        for name in ("A", "B"):
            info = client.session(name)
            whole[name] = (info.memory_bytes, info.pids_max, info.priority, info.cpu, info.mode)
            whole[f"{name} in the kernel"] = [
                (self.daemon.root / name / file).read_text() for file in ("memory.max", "pids.max")
            ]
        return whole

    def open_pidfds(self) -> int:
        """The daemon's: of peers, of owners of calls, and (for a moment) of children."""
        count = 0
        for link in Path(f"/proc/{self.victims['the daemon']}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += "pidfd" in str(link.readlink())
        return count

    def close(self) -> None:
        for puppet in self._puppets.values():
            puppet.close()
        for fd in self.pidfds.values():
            os.close(fd)
        self.agent_of_b.kill()
        self.agent_of_b.wait()


def kind_of(said: dict[str, Any]) -> str:
    if "error" in said and isinstance(said["error"], dict):
        kind: str = said["error"]["data"]["kind"]
        return kind
    return "ok" if "result" in said else str(said)


def cgroup_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip()
