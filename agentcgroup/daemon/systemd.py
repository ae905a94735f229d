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
from ..errors import CgroupGoneError, ConfigError
from .layout import enable_controllers

__all__ = ["KEEPER_ARGV", "SCOPE", "notify", "scope_root", "under_systemd", "watchdog_interval_s"]

SCOPE = "agentcgroup-tree.scope"
KEEPER_ARGV = ("/bin/sleep", "infinity")
_TREE = "tree"
_PATIENCE_S = 30.0
_ASK_AGAIN_S = 2.0


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
    deadline_s = time.monotonic() + _PATIENCE_S
    asked_s = -_ASK_AGAIN_S
    while time.monotonic() < deadline_s:
        scope = _scope_path()
        if scope is not None:
            with contextlib.suppress(CgroupGoneError):
                if _make_tree(scope):
                    return scope / _TREE
        elif time.monotonic() >= asked_s + _ASK_AGAIN_S:
            # Once more if need be: the name stays taken while an old scope goes away.
            asked_s = time.monotonic()
            _start_scope()
        time.sleep(0.02)
    raise ConfigError(
        "root", SCOPE, "systemd did not start this scope; see: systemctl status "
        f"{SCOPE}; or name a delegated cgroup with --root",
    )  # fmt: skip


def _make_tree(scope: Path) -> bool:
    """False while nobody lives in the scope: systemd is about to fill or to remove it, and
    could do neither once controllers are on."""
    with Cgroup.open(scope) as cgroup:
        if not cgroup.populated():
            return False
        with cgroup.create("keeper", exist_ok=True) as keeper:
            for pid in cgroup.procs():
                with contextlib.suppress(ProcessLookupError):
                    keeper.move(pid)
            if not keeper.populated():
                # Calls of a predecessor still run, but the keeper was killed.
                keeper.move(subprocess.Popen(KEEPER_ARGV, start_new_session=True).pid)
        if _TREE not in cgroup.children():
            enable_controllers(cgroup)
            cgroup.create(_TREE, exist_ok=True).close()
        return True


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
    command = [run, "--quiet", "--scope", "--collect", f"--unit={SCOPE}", "-p", "Delegate=yes",
               "--description=Tree of agentcgroup", "--", *KEEPER_ARGV]  # fmt: skip
    subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" >/dev/null 2>&1 &', "sh", *command],
        stdin=subprocess.DEVNULL, start_new_session=True,
    ).wait()  # fmt: skip
