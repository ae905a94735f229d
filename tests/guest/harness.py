# SPDX-License-Identifier: Apache-2.0
"""A daemon of a test's own, on a tree, sockets and state of its own; shims beside it.

    with PrivateDaemon() as daemon:        # or the fixture `daemon` of conftest.py
        daemon.start()
        daemon.client.create_session("s", memory="512M")
        shim = daemon.shim("sh", "-c", "exit 3", session="s")
        assert shim.wait() == 3 and shim.outcome["reason"] == "failed"

Leaving the block kills daemon and guardian and removes what they made.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nursery import Nursery, NurseryProcess

from agentcgroup.client.client import Client
from agentcgroup.programs import find_program

__all__ = [
    "CGROUPFS", "PATIENCE_S", "PrivateDaemon", "Shim", "alive", "enter_cgroup", "lasting_state",
    "leaf_state", "locked_share", "read_value", "remove_tree", "until",
]  # fmt: skip

CGROUPFS = Path("/sys/fs/cgroup")
# An emulated kernel on a busy machine; a wait this long is a failure, never a measure.
PATIENCE_S = 180.0
LIMIT_FILES = ("memory.high", "memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max")
_START = (
    "import sys; from agentcgroup.daemon.config import load_config;"
    "from agentcgroup.daemon.main import run; run(load_config(sys.argv[1]), sys.argv[1])"
)
T = TypeVar("T")


class PrivateDaemon:
    """`settings` are tables of the configuration file: policy={"step": "8M"}."""

    def __init__(self, nursery: Nursery | None = None, **settings: Mapping[str, Any]) -> None:
        self._nursery = nursery
        self.base = Path(tempfile.mkdtemp(prefix="acg-", dir="/run"))
        self.base.chmod(0o755)
        self.root = CGROUPFS / self.base.name
        self.socket = self.base / "agent" / "agent.sock"
        self.log = self.base / "daemon.log"
        self.process: subprocess.Popen[bytes] | NurseryProcess | None = None
        self.shims: list[Shim] = []
        self._config = self.base / "config.toml"
        self._client: Client | None = None
        own = {"root": str(self.root), "socket": str(self.socket), "log_level": "DEBUG",
               "state_dir": str(self.base / "state")}  # fmt: skip
        tables = {**settings, "daemon": {**own, **settings.get("daemon", {})}}
        self._config.write_text("".join(_toml_table(name, t) for name, t in tables.items()))

    # --- life

    def start(self, *, crash_at: str = "", ready: bool = True, **environ: str) -> PrivateDaemon:
        """`crash_at`: see agentcgroup.daemon.crashpoints; `ready`: wait until it answers."""
        env = {**os.environ, "AGENTCGROUP_CRASH_AT": crash_at, **environ}
        with self.log.open("ab") as log:
            if self._nursery is not None:
                self.process = self._nursery.start(str(self._config), str(self.log), env)
                return self._wait_ready() if ready else self
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
            )  # fmt: skip
        return self._wait_ready() if ready else self

    def _wait_ready(self) -> PrivateDaemon:
        until(self._answers, "the daemon answers", self.log_text)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log_text()}"
        try:
            return bool(self.client.version())
        except Exception:  # whatever an absent daemon looks like: the deadline judges
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash; the guardian stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, a clean end; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def died(self) -> int:
        """Wait until the daemon ended by itself (a crash point); its exit status."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def guardian_pid(self) -> int | None:
        """The live guardian of this tree."""
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                args = cmdline.read_bytes().split(b"\0")
                if b"agentcgroup-guardian" in args[0] and str(self.root).encode() in args:
                    return int(cmdline.parent.name)
        return None

    def close(self) -> None:
        for shim in self.shims:
            shim.kill()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        guardian = self.guardian_pid
        if guardian is not None:
            os.kill(guardian, signal.SIGKILL)
        if self._client is not None:
            self._client.close()
        if self.root.is_dir():
            remove_tree(self.root)
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> PrivateDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it serves

    @property
    def client(self) -> Client:
        """As an administrator outside of every session."""
        if self._client is None:
            self._client = Client(str(self.socket), require=True)
        return self._client

    def shim(
        self,
        *command: str,
        session: str | None = None,
        options: Sequence[str] = (),
        inside: bool = False,
        **environ: str,
    ) -> Shim:
        """Start agentcgroup-run; `inside`: as a process of the session's agent/."""
        directory = self.root / session / "agent" if inside and session else None
        options = [*options, *(["--session", session] if session and not inside else [])]
        env = {**os.environ, "AGENTCGROUP_SOCKET": str(self.socket),
               "AGENTCGROUP_RECONNECT_S": str(PATIENCE_S), **environ}  # fmt: skip
        outcome_file = self.base / f"outcome-{len(self.shims)}.json"
        shim = Shim(list(command), options, outcome_file, directory, env)
        self.shims.append(shim)
        return shim

    def call_of(self, shim: Shim) -> str:
        """The name of the shim's call, once its command runs in its leaf."""
        until(lambda: shim.released, "the command runs", self.log_text)
        return until(lambda: shim.leaf(self.root), "the command is placed", self.log_text).name

    def leaf(self, call: str) -> Path:
        """Where the tree has this call. Raises StopIteration when it has not."""
        return next(self.root.glob(f"*/tools/{call}"))

    def leaves(self) -> set[str]:
        """Calls that have a cgroup."""
        return {p.name for p in self.root.glob("*/tools/*/") if p.name != "background"}

    def orphans(self) -> list[str]:
        """Cgroups of the tree that belong to no live session or call."""
        sessions = {s.name: s for s in self.client.sessions()}
        found = []
        for directory, _, _ in os.walk(self.root):
            parts = Path(directory).relative_to(self.root).parts
            known = not parts or (
                parts[0] in sessions
                and (len(parts) == 1 or parts[1:] in (("agent",), ("tools",))
                     or parts[1:] == ("tools", "background")
                     or (len(parts) == 3 and parts[2] in sessions[parts[0]].calls))
            )  # fmt: skip
            if not known:
                found.append("/".join(parts))
        return found

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Shim:
    """A running agentcgroup-run: its exit status, outcome, stdout and stderr."""

    def __init__(
        self,
        command: list[str],
        options: Sequence[str],
        outcome_file: Path,
        cgroup: Path | None,
        env: dict[str, str],
    ) -> None:
        program = find_program("agentcgroup-run")
        assert program is not None, "agentcgroup-run is not installed"
        self.outcome_file = outcome_file
        argv = [program, *options, "--json-outcome", str(outcome_file), "--", *command]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=env,
            preexec_fn=None if cgroup is None else lambda: enter_cgroup(cgroup),  # noqa: PLW1509
        )  # fmt: skip
        self.stdout = self.stderr = ""

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        out, err = self.process.communicate(timeout=timeout_s)
        self.stdout, self.stderr = out.decode(errors="replace"), err.decode(errors="replace")
        return self.process.returncode

    @property
    def outcome(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.outcome_file.read_text())
        return found

    @property
    def child_pid(self) -> int | None:
        """The command's process (it may still wait for its leaf)."""
        pid = self.process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    @property
    def released(self) -> bool:
        """The daemon's answer came, and the command was executed."""
        with contextlib.suppress(OSError):
            return "agentcgroup-run" not in Path(f"/proc/{self.child_pid}/comm").read_text()
        return False

    def leaf(self, root: Path) -> Path | None:
        """The leaf that holds the command below `root`."""
        child = self.child_pid
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{child}/cgroup").read_text()
            path = CGROUPFS / text.partition("::")[2].strip().lstrip("/")
            return path if path.is_relative_to(root) and path.parent.name == "tools" else None
        return None

    def kill(self) -> None:
        """SIGKILL to the shim alone; nothing if it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def until(
    condition: Callable[[], T],
    what: str,
    context: Callable[[], str] = str,
    timeout_s: float = PATIENCE_S,
    interval_s: float = 0.02,
) -> T:
    """The condition's first true value; AssertionError saying `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{context()}"
        time.sleep(interval_s)
    return value


def alive(pid: int) -> bool:
    """False for a zombie, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def locked_share(pid: int) -> float:
    """Of what it has in memory, the share that stays there (mlockall)."""
    sizes_kib = {"Pss": 0, "Locked": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in sizes_kib:
            sizes_kib[name] = int(rest.split()[0])
    return sizes_kib["Locked"] / sizes_kib["Pss"]


def enter_cgroup(cgroup: Path) -> None:
    """Move the calling process (for preexec_fn)."""
    with open(cgroup / "cgroup.procs", "w", encoding="ascii") as procs:
        procs.write("0")


def remove_tree(top: Path) -> None:
    """Kill what is in these cgroups, then remove them."""
    (top / "cgroup.kill").write_text("1")
    until(lambda: "populated 0" in (top / "cgroup.events").read_text(), "all are dead")
    for directory, _, _ in os.walk(top, topdown=False):
        Path(directory).rmdir()


def read_value(leaf: Path, file: str) -> str:
    return (leaf / file).read_text().strip()


def leaf_state(leaf: Path) -> dict[str, Any]:
    """Pids and limits of a leaf, for a comparison of before and after."""
    pids = sorted(int(pid) for pid in read_value(leaf, "cgroup.procs").split())
    limits = {file: read_value(leaf, file) for file in _present(leaf)}
    return {"pids": pids, "inode": leaf.stat().st_ino, **limits}


def lasting_state(leaf: Path) -> dict[str, Any]:
    """What no restart may change; the grant moves with what is free."""
    return {name: value for name, value in leaf_state(leaf).items() if name != "memory.high"}


def _present(leaf: Path) -> Iterator[str]:
    return (file for file in LIMIT_FILES if (leaf / file).exists())


def _toml_table(name: str, table: Mapping[str, Any]) -> str:
    return "".join([f"[{name}]\n", *(f"{k} = {json.dumps(v)}\n" for k, v in table.items()), "\n"])
