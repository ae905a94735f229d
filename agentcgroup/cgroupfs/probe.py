# SPDX-License-Identifier: Apache-2.0
"""What the cgroup files of this host really do, by trying each on a throw-away cgroup.

A name in the directory is no capability: the answer is yes only when the effect was
seen. Could-not-tell is not to be remembered. Takes about a second in all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..errors import CgroupGoneError, NotSupportedError
from ..types.capabilities import Answer, Capability
from ..units import MIB
from . import files, parse, proc
from .api import CgroupLike
from .probe_worker import ProbeWorker, WorkerSilentError
from .watch import psi_trigger

__all__ = ["PROBES", "disk_of", "probe_all", "probe_one", "scratch_cgroup"]

Verdict = tuple[Answer, str]
Probe = Callable[[CgroupLike], Verdict]

_STEP_BYTES = 4 * MIB
_IO_BYTES = MIB
_IO_LIMIT_BYTES_PER_S = 2 * MIB
# 1 MiB at 2 MiB/s is half a second; far below means that nobody throttled.
_IO_THROTTLED_US = 300_000
_SPIN_MS = 300
_FOREVER_MS = 60_000
_ATTEMPTS = 3
_WEIGHT_RATIO = 3
_PATIENCE_S = 5.0


def probe_all(root: CgroupLike) -> list[Capability]:
    """Every probe in turn, each in a child of `root`, which needs its controllers enabled."""
    return [probe_one(root, name) for name in PROBES]


def probe_one(root: CgroupLike, name: str) -> Capability:
    try:
        with scratch_cgroup(root) as cg:
            answer, reason = PROBES[name](cg)
    except NotSupportedError as error:
        answer, reason = Answer.NO, error.strerror or str(error)
    except CgroupGoneError:
        raise
    except WorkerSilentError as error:
        answer, reason = Answer.UNKNOWN, str(error)
    except OSError as error:
        answer, reason = Answer.UNKNOWN, error.strerror or str(error)
    return Capability(name, answer, reason)


# --- memory


def _memory_high(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker:
        cg.write(files.MEMORY_HIGH, str(_current_bytes(cg) + _STEP_BYTES))
        # Over the line it is throttled, so no answer is waited for.
        worker.tell("touch", 4 * _STEP_BYTES)
        if _eventually(lambda: cg.keyed(files.MEMORY_EVENTS_LOCAL).get("high", 0) > 0):
            return Answer.YES, "a process over the line was throttled"
        if _current_bytes(cg) < 4 * _STEP_BYTES:
            return Answer.UNKNOWN, "the probe's process did not get over the line"
        return Answer.NO, "a process went over the line and no high event came"


def _memory_max(cg: CgroupLike) -> Verdict:
    with contextlib.suppress(NotSupportedError):
        cg.write(files.MEMORY_SWAP_MAX, "0")
    with ProbeWorker(cg) as worker:
        limit_bytes = _current_bytes(cg) + _STEP_BYTES
        cg.write(files.MEMORY_MAX, str(limit_bytes))
        worker.tell("touch", 4 * _STEP_BYTES)
        if worker.ended(_PATIENCE_S):
            return Answer.YES, "a process over the limit was killed"
        if _current_bytes(cg) > limit_bytes:
            return Answer.NO, "a process went over the limit and lived"
        return Answer.UNKNOWN, "the probe's process did not get over the limit"


def _memory_peak(cg: CgroupLike) -> Verdict:
    before_bytes = int(cg.read(files.MEMORY_PEAK))
    with ProbeWorker(cg) as worker:
        worker.ask("touch", _STEP_BYTES)
    after_bytes = int(cg.read(files.MEMORY_PEAK))
    if after_bytes - before_bytes >= _STEP_BYTES:
        return Answer.YES, "the peak stayed after the memory was gone"
    return Answer.NO, f"the peak rose by {after_bytes - before_bytes} bytes only"


def _memory_reclaim(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker, _scratch_file() as path:
        worker.ask("write", path, _STEP_BYTES, 0)
        before_bytes, scanned_before = _current_bytes(cg), _scanned(cg)
        # EAGAIN: less was reclaimable than asked for. That it tried is what counts.
        with contextlib.suppress(BlockingIOError):
            cg.write(files.MEMORY_RECLAIM, str(_STEP_BYTES // 2))
        dropped_bytes = before_bytes - _current_bytes(cg)
        if dropped_bytes > 0:
            return Answer.YES, f"{dropped_bytes} bytes went when asked for"
        if _scanned(cg) > scanned_before:
            return Answer.YES, "pages were scanned when asked for; none could go here"
        return Answer.UNKNOWN, "accepted, but nothing was scanned"


def _swap(cg: CgroupLike) -> Verdict:
    cg.read(files.MEMORY_SWAP_MAX)
    areas = [line.split()[0] for line in proc.lines("/proc/swaps")[1:]]
    if areas:
        return Answer.YES, f"swap on {', '.join(areas)}"
    return Answer.NO, "no swap area is in use"


def _memory_pressure(cg: CgroupLike) -> Verdict:
    try:
        lines = parse.pressure(cg.read(files.MEMORY_PRESSURE))
        os.close(psi_trigger(cg, "some", 150_000, 2_000_000))
    except NotSupportedError:
        raise
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return Answer.NO, "pressure accounting is switched off (boot with psi=1)"
        raise
    if "full" not in lines:
        return Answer.NO, "memory.pressure has no full line"
    return Answer.YES, "readable, and a trigger was accepted"


# --- processes


def _kill(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker:
        cg.kill()
        if worker.ended(_PATIENCE_S):
            return Answer.YES, "the process ended"
    return Answer.UNKNOWN, f"the process did not end within {_PATIENCE_S:.0f} s"


def _freeze(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker:
        cg.freeze(True)
        frozen = _eventually(cg.frozen)
        cg.freeze(False)
        if not frozen:
            return Answer.UNKNOWN, f"it was not frozen within {_PATIENCE_S:.0f} s"
        worker.ask("ping")
    return Answer.YES, "stopped and went on"


def _pids(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker:
        cg.write(files.PIDS_MAX, "1")
        try:
            worker.ask("fork")
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return Answer.YES, "a fork above the limit was refused"
            raise
    return Answer.NO, "a fork above the limit succeeded"


def _xattr(cg: CgroupLike) -> Verdict:
    name = "trusted.agentcgroup.probe"
    try:
        cg.set_xattr(name, b"1")
    except PermissionError:
        return Answer.NO, "trusted attributes need CAP_SYS_ADMIN"
    if cg.get_xattr(name) == b"1":
        return Answer.YES, "written and read back"
    return Answer.NO, "a written attribute did not read back"


# --- cpu


def _cpu_max(cg: CgroupLike) -> Verdict:
    with ProbeWorker(cg) as worker:
        cg.write(files.CPU_MAX, "10000 100000")
        used_us = worker.ask("spin", _SPIN_MS, timeout_s=_PATIENCE_S)
        throttled = cg.keyed(files.CPU_STAT).get("nr_throttled", 0)
    if throttled and used_us < _SPIN_MS * 1000 // 2:
        return Answer.YES, f"10 % allowed, {used_us / _SPIN_MS / 10:.0f} % used"
    return Answer.NO, f"10 % allowed, {used_us / _SPIN_MS / 10:.0f} % used"


def _cpu_weight(cg: CgroupLike) -> Verdict:
    cg.read(files.CPU_WEIGHT)
    cg.write(files.CGROUP_SUBTREE_CONTROL, "+cpu")
    cpu = min(os.sched_getaffinity(0))
    with cg.create("heavy") as heavy, cg.create("light") as light:
        heavy.write(files.CPU_WEIGHT, "1000")
        light.write(files.CPU_WEIGHT, "10")
        with ProbeWorker(heavy) as one, ProbeWorker(light) as other:
            for worker in (one, other):
                worker.ask("pin", cpu)
            idle_us = _cpu_usage_us(light)
            other.tell("spin", _FOREVER_MS)
            if not _eventually(lambda: _cpu_usage_us(light) > idle_us + 1000):
                return Answer.UNKNOWN, "the CPU was too busy to tell"
            for _ in range(_ATTEMPTS):
                before_us = _cpu_usage_us(light)
                heavy_us = one.ask("spin", _SPIN_MS, timeout_s=_PATIENCE_S)
                light_us = _cpu_usage_us(light) - before_us
                if heavy_us > _WEIGHT_RATIO * light_us:
                    break
    seen = f"weights 1000 to 10 gave {heavy_us // 1000} to {light_us // 1000} ms of CPU"
    return (Answer.YES if heavy_us > _WEIGHT_RATIO * light_us else Answer.NO), seen


# --- io


def _io_max(cg: CgroupLike) -> Verdict:
    cg.read(files.IO_MAX)
    with _scratch_file() as path:
        device = disk_of(path)
        if device is None:
            return Answer.UNKNOWN, f"{Path(path).parent} is not on a block device"
        with ProbeWorker(cg) as worker:
            free_us = worker.ask("write", path, _IO_BYTES, 1)
            if free_us >= _IO_THROTTLED_US // 2:
                return Answer.UNKNOWN, "the disk was too busy to tell"
            cg.write(files.IO_MAX, f"{device} wbps={_IO_LIMIT_BYTES_PER_S}")
            limited_us = worker.ask("write", path, _IO_BYTES, 1)
    seen = f"1 MiB took {free_us // 1000} ms, limited to 2 MiB/s {limited_us // 1000} ms"
    return (Answer.YES if limited_us >= _IO_THROTTLED_US else Answer.NO), seen


def _io_weight(cg: CgroupLike) -> Verdict:
    """A weight acts only through io.cost (enabled per disk at the root) or BFQ."""
    weighted = cg.try_read(files.IO_WEIGHT) is not None
    if not weighted and cg.try_read(files.IO_BFQ_WEIGHT) is None:
        cg.read(files.IO_WEIGHT)
    bfq = [
        path.parts[3]
        for path in sorted(Path("/sys/block").glob("*/queue/scheduler"))
        if "[bfq]" in path.read_text(encoding="ascii")
    ]
    if bfq:
        return Answer.YES, f"BFQ schedules {', '.join(bfq)}"
    qos = Path(proc.cgroup2_mount_point() or "/") / files.IO_COST_QOS
    try:
        table = parse.nested_keyed(qos.read_text(encoding="ascii"))
    except OSError:
        return Answer.UNKNOWN, "no BFQ, and io.cost.qos can't be read from here"
    costed = [device for device, fields in table.items() if fields.get("enable") == "1"]
    if weighted and costed:
        return Answer.YES, f"io.cost is enabled on {', '.join(costed)}"
    return Answer.NO, "no disk has BFQ or io.cost, so a weight has no effect; io.max may have"


PROBES: Final[dict[str, Probe]] = {
    "memory.high": _memory_high,
    "memory.max": _memory_max,
    "memory.peak": _memory_peak,
    "memory.reclaim": _memory_reclaim,
    "memory.pressure": _memory_pressure,
    "swap": _swap,
    "cgroup.kill": _kill,
    "cgroup.freeze": _freeze,
    "pids.max": _pids,
    "xattr": _xattr,
    "cpu.max": _cpu_max,
    "cpu.weight": _cpu_weight,
    "io.max": _io_max,
    "io.weight": _io_weight,
}


@contextlib.contextmanager
def scratch_cgroup(root: CgroupLike) -> Iterator[CgroupLike]:
    """A child cgroup that is emptied and removed afterwards, whatever happened."""
    with root.create(f"probe-{os.getpid()}-{time.monotonic_ns()}") as cg:
        try:
            yield cg
        finally:
            with contextlib.suppress(OSError):
                cg.kill()
            with contextlib.suppress(OSError):
                _eventually(lambda: not cg.populated())
                cg.remove_tree()


@contextlib.contextmanager
def _scratch_file() -> Iterator[str]:
    """An empty file where a disk is most likely (/var/tmp outlives a boot, so no tmpfs)."""
    directory = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    with tempfile.NamedTemporaryFile(prefix="agentcgroup-probe-", dir=directory) as file:
        yield file.name


def disk_of(path: str) -> str | None:
    """MAJ:MIN of the whole disk below `path`, for io.max takes no partitions."""
    device = Path(path).stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not block.exists():
        return None
    if (block / "partition").exists():
        block = block.resolve().parent
    return (block / "dev").read_text(encoding="ascii").strip()


def _current_bytes(cg: CgroupLike) -> int:
    return int(cg.read(files.MEMORY_CURRENT))


def _cpu_usage_us(cg: CgroupLike) -> int:
    return cg.keyed(files.CPU_STAT)["usage_usec"]


def _scanned(cg: CgroupLike) -> int:
    stat = cg.keyed(files.MEMORY_STAT)
    return sum(value for key, value in stat.items() if key.startswith("pgscan"))


def _eventually(check: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not check():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.005)
    return True
