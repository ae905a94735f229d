# SPDX-License-Identifier: Apache-2.0
"""What /proc says about processes. A process that is gone gives None, never an error.

Numeric pids are reused: whoever acts on one holds a pidfd and asks whether it still
lives after reading here (see `pidfd`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import printable
from ..types.outcomes import BiggestProcess

__all__ = [
    "ProcessStatus",
    "biggest_process",
    "cgroup2_mount_point",
    "cgroup_path",
    "children",
    "cmdline",
    "lines",
    "meminfo_bytes",
    "namespace_id",
    "rss_bytes",
    "start_time_ticks",
    "state",
    "status",
    "stop_is_pending",
    "zombie_status",
]

_PF_KTHREAD = 0x00200000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Field numbers of proc(5) `stat`, counted from the state, which follows the name.
_STAT_PPID = 4 - 3
_STAT_FLAGS = 9 - 3
_STAT_START_TIME = 22 - 3
_STAT_EXIT_CODE = 52 - 3
_COMMAND_LENGTH = 64
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """`uid` is the real one; `start_ticks` are clock ticks after boot."""

    pid: int
    ppid: int
    uid: int
    is_kthread: bool
    start_ticks: int


def cgroup_path(pid: int | str = "self") -> str | None:
    """Path in the v2 hierarchy, as seen from this cgroup namespace; None if gone or v1 only.

    A process whose cgroup was removed under it (a zombie) is in "… (deleted)".
    """
    text = _read(f"/proc/{pid}/cgroup")
    for line in (text or "").split("\n"):
        if line.startswith("0::"):
            return line[3:]
    return None


def start_time_ticks(pid: int) -> int | None:
    """Clock ticks after boot; with the pid it names a process for good."""
    fields = _stat_fields(pid)
    return int(fields[_STAT_START_TIME]) if fields else None


def status(pid: int) -> ProcessStatus | None:
    text = _read(f"/proc/{pid}/status")
    fields = _stat_fields(pid)
    if not text or not fields:
        return None
    try:
        return ProcessStatus(
            pid=pid,
            ppid=int(fields[_STAT_PPID]),
            uid=_real_uid(text),
            is_kthread=bool(int(fields[_STAT_FLAGS]) & _PF_KTHREAD),
            start_ticks=int(fields[_STAT_START_TIME]),
        )
    except ValueError:
        return None


def state(pid: int) -> str | None:
    """The letter of proc(5): T stands still for a signal, Z waits to be reaped."""
    fields = _stat_fields(pid)
    return fields[0] if fields else None


def zombie_status(pid: int) -> int | None:
    """As waitpid(2) will have it, of a process that waits to be reaped; else None."""
    fields = _stat_fields(pid)
    if not fields or fields[0] != "Z" or len(fields) <= _STAT_EXIT_CODE:
        return None
    return int(fields[_STAT_EXIT_CODE])


def stop_is_pending(pid: int) -> bool:
    """SIGSTOP was sent to it and it has not stopped yet."""
    for line in lines(f"/proc/{pid}/status"):
        name, _, mask = line.partition(":")
        if name in ("SigPnd", "ShdPnd") and int(mask, 16) >> (signal.SIGSTOP - 1) & 1:
            return True
    return False


def cmdline(pid: int, limit: int = _COMMAND_LENGTH) -> str | None:
    """The command line: printable, at most `limit` characters, for messages to quote.

    A kernel thread or zombie has none: then its name in brackets.
    """
    text = _read(f"/proc/{pid}/cmdline")
    if text is None:
        return None
    words = text.rstrip("\0").replace("\0", " ").strip()
    if not words:
        name = _read(f"/proc/{pid}/comm")
        if name is None:
            return None
        words = f"[{name.strip()}]"
    return printable(words, limit)[1:-1]


def rss_bytes(pid: int) -> int | None:
    """Resident memory, file pages included (statm, second field)."""
    fields = (_read(f"/proc/{pid}/statm") or "").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else None


def children(pid: int) -> list[int]:
    """Live children of all threads of `pid`. Needs CONFIG_PROC_CHILDREN; empty if gone."""
    found: list[int] = []
    try:
        threads = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return found
    for tid in threads:
        text = _read(f"/proc/{pid}/task/{tid}/children", one_record=False)
        found.extend(int(word) for word in (text or "").split())
    return sorted(found)


def biggest_process(pids: Iterable[int]) -> BiggestProcess | None:
    """The live process with the most resident memory."""
    sizes = ((rss_bytes(pid), pid) for pid in pids)
    size, pid = max(((size, pid) for size, pid in sizes if size is not None), default=(0, 0))
    command = cmdline(pid) if pid else None
    return BiggestProcess(pid=pid, command=command, rss_bytes=size) if command else None


def namespace_id(pid: int | str, kind: str) -> int | None:
    """Inode of /proc/PID/ns/KIND (`pid`, `user`, `cgroup`, `mnt`); None if gone or hidden."""
    try:
        return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
    except OSError:
        return None


def cgroup2_mount_point() -> str | None:
    """Where cgroup v2 is mounted; the first one with its root, else the first at all."""
    candidates = []
    for line in lines("/proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        if separator and after.startswith("cgroup2 "):
            fields = before.split()
            candidates.append((fields[3] != "/", _unescape(fields[4])))
    return min(candidates, key=lambda found: found[0])[1] if candidates else None


def lines(path: str) -> list[str]:
    """Lines of a file below /proc; none if it is not there."""
    return (_read(path, one_record=False) or "").splitlines()


def meminfo_bytes(name: str) -> int | None:
    """A line of /proc/meminfo, such as MemTotal or SwapFree; None if it is not there."""
    for line in lines("/proc/meminfo"):
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _unescape(path: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        path = path.replace(code, chr(int(code[1:], 8)))
    return path


def _real_uid(status_text: str) -> int:
    """The first number of its line. ValueError if there is none."""
    start = status_text.index("\nUid:\t") + len("\nUid:\t")
    return int(status_text[start : status_text.index("\t", start)])


def _stat_fields(pid: int) -> list[str] | None:
    text = _read(f"/proc/{pid}/stat")
    # The name may hold blanks and parentheses: the last one ends it.
    fields = text.rpartition(")")[2].split() if text else []
    return fields if len(fields) > _STAT_START_TIME else None


def _read(path: str, *, one_record: bool = True) -> str | None:
    """A file of one record comes whole with the first read (kernel fs/seq_file.c)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = chunk = os.read(fd, _CHUNK)
        while chunk and not one_record:
            chunk = os.read(fd, _CHUNK)
            data += chunk
        return data.decode(errors="replace")
    except OSError:
        # ESRCH: the process ended between open and read.
        return None
    finally:
        os.close(fd)
