# SPDX-License-Identifier: Apache-2.0
"""systemd, where it is: readiness and watchdog messages, and the delegated scope.

The tree lives in a transient scope of its own that outlives the daemon's unit:
`agentcgroup-tree.scope` with Delegate=yes, a keeper process in `keeper/`, the tree
beside it. A unit's own cgroup can't hold it: at restart its calls would be killed, or
the restart would fail (no internal processes).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ..cgroupfs import proc
from ..cgroupfs.handle import Cgroup
from ..errors import ConfigError
from .layout import enable_controllers

__all__ = ["KEEPER_ARGV", "SCOPE", "notify", "scope_root", "under_systemd", "watchdog_interval_s"]

SCOPE = "agentcgroup-tree.scope"
KEEPER_ARGV = ("/bin/sleep", "infinity")
_PATIENCE_S = 10.0


def notify(message: str) -> bool:
    """sd_notify(3); False when nobody asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with sock, contextlib.suppress(OSError):
        sock.sendto(message.encode(), address)
        return True
    return False


def watchdog_interval_s() -> float | None:
    """Half of what the service manager allows, or None without a watchdog."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2e6 if usec.isdigit() else None


def under_systemd() -> bool:
    """sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def scope_root() -> Path:
    """The tree inside the scope; starts the scope when it is not there.

    Raises ConfigError when systemd does not give us one.
    """
    scope = _scope_path()
    if scope is None:
        _start_scope()
        deadline = time.monotonic() + _PATIENCE_S
        while (scope := _scope_path()) is None:
            if time.monotonic() > deadline:
                raise ConfigError(
                    "root", SCOPE, "systemd did not start this scope; see: systemctl status "
                    f"{SCOPE}; or name a delegated cgroup with --root",
                )  # fmt: skip
            time.sleep(0.02)
    with Cgroup.open(scope) as cgroup:
        if "tree" in cgroup.children():
            return scope / "tree"
        with cgroup.create("keeper", exist_ok=True) as keeper:
            for pid in cgroup.procs():
                keeper.move(pid)
        enable_controllers(cgroup)
        cgroup.create("tree", exist_ok=True).close()
    return scope / "tree"


def _scope_path() -> Path | None:
    mount = proc.cgroup2_mount_point()
    if mount is None:
        return None
    path = Path(mount) / "system.slice" / SCOPE
    return path if path.is_dir() else None


def _start_scope() -> None:
    """--scope runs the keeper as our child: it is detached by a second fork."""
    run = shutil.which("systemd-run")
    if run is None:
        raise ConfigError("root", SCOPE, "install systemd-run, or name a cgroup with --root")
    command = [run, "--quiet", "--scope", f"--unit={SCOPE}", "-p", "Delegate=yes",
               "--description=Tree of agentcgroup", "--", *KEEPER_ARGV]  # fmt: skip
    subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" >/dev/null 2>&1 &', "sh", *command],
        stdin=subprocess.DEVNULL, start_new_session=True,
    ).wait()  # fmt: skip
