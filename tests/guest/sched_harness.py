# SPDX-License-Identifier: Apache-2.0
"""A look at the scheduler from beside the daemon: by its pins, and by what the kernel says."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import PrivateDaemon, enter_cgroup, until

from agentcgroup.bpf.choose import SCHED_OBJECT
from agentcgroup.bpf.objects import BpfObject, read_image
from agentcgroup.bpf.pins import BPFFS, Pins, close_all
from agentcgroup.bpf.sched_maps import SchedulerMaps
from agentcgroup.bpf.sched_plan import loaded_scheduler

__all__ = [
    "PINS", "eject", "forget_pins", "kernel_complaints", "link_ids", "maps_of", "pinned",
    "spinning", "used_share", "wait_for_kernels_own",
]  # fmt: skip

PINS = BPFFS / "agentcgroup"
_SPIN = ["python3", "-S", "-E", "-c", "while True: pass"]


def pinned() -> list[Path]:
    """One directory for each set of pins there is."""
    return sorted(PINS.glob("*/*/"))


@contextmanager
def maps_of(found: Path) -> Iterator[SchedulerMaps]:
    """The maps of a pinned scheduler, as nobody but root can have them."""
    opened = BpfObject(read_image(SCHED_OBJECT), SCHED_OBJECT)
    fds = Pins(found.parent).find(found.name)
    try:
        yield SchedulerMaps(opened, fds)
    finally:
        close_all(fds)
        opened.close()


def link_ids() -> set[int]:
    """Of attached tables of hooks."""
    listed = until(_list_links, "bpftool lists the links")
    return {link["id"] for link in json.loads(listed) if link["type"] == "struct_ops"}


def _list_links() -> str | None:
    """None: one went while it was at it, which bpftool takes for a failure."""
    done = subprocess.run(
        ["bpftool", "--json", "link", "list"], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def eject() -> None:
    """As an administrator in need does: sysrq-S takes any scheduler away."""
    Path("/proc/sysrq-trigger").write_text("S")


def forget_pins() -> None:
    """Whatever a test has left: the scheduler ends with its pins."""
    for path in sorted(PINS.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    wait_for_kernels_own()


def wait_for_kernels_own() -> None:
    until(lambda: loaded_scheduler() is None, "the kernel's own scheduler runs")


@contextmanager
def spinning(daemon: PrivateDaemon, **weights: int) -> Iterator[dict[str, Path]]:
    """Cgroups of these weights beside each other, two busy processes in each."""
    made = {name: daemon.root / f"spin-{name}" for name in weights}
    processes = []
    try:
        for name, directory in made.items():
            directory.mkdir()
            (directory / "cpu.weight").write_text(str(weights[name]))
            for _ in range(2):
                processes.append(
                    subprocess.Popen(_SPIN, preexec_fn=lambda to=directory: enter_cgroup(to))  # noqa: PLW1509
                )
        yield made
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for directory in made.values():
            directory.rmdir()


def used_share(cgroups: dict[str, Path], measured_s: float) -> dict[str, float]:
    """Parts of the CPU time that these had together."""
    before = {name: _usage_us(path) for name, path in cgroups.items()}
    time.sleep(measured_s)
    used = {name: _usage_us(path) - before[name] for name, path in cgroups.items()}
    return {name: us / sum(used.values()) for name, us in used.items()}


def _usage_us(cgroup: Path) -> int:
    return int((cgroup / "cpu.stat").read_text().split()[1])


def kernel_complaints() -> list[str]:
    """Lines of the kernel's log that no test may leave."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return [line for line in log.splitlines() if "BUG" in line or "WARNING" in line]
