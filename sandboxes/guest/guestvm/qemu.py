# SPDX-License-Identifier: Apache-2.0
"""The QEMU process: its command line, whether KVM works here, and its end.

The channels (command output, exit status, console) are socket pairs that QEMU inherits: no
names in the file system, nothing to clean up.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guestvm import kernel as kernels
from guestvm.host import Cache, call, program, say

PORTS = ("stdout", "stderr", "status")
CONSOLE = "console"
FIRST_DESCRIPTOR = 64
PROBE_TIMEOUT_S = 15
PROBE_ANSWER = b"agentcgroup-probe-ok"
_PR_SET_PDEATHSIG = 1
_CMDLINE = (
    # panic=-1 with -no-reboot ends QEMU at once; after an oops nothing measured would be worth
    # anything, so it counts as a panic.
    "console=ttyS0 quiet panic=-1 oops=panic audit=0 no_timer_check "
    "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"
)


@dataclass(frozen=True)
class Disk:
    serial: str
    image: Path
    mode: str  # "ro", "rw", or "scratch": writes are dropped when the guest ends


@dataclass
class Machine:
    kernel: kernels.BootKernel
    initrd: Path
    memory: str
    cpus: int
    kvm: bool
    disks: Sequence[Disk] = field(default_factory=tuple)
    append: str = ""

    def command(self, channels: Mapping[str, int]) -> list[str]:
        """The command line; `channels` maps a channel's name to the descriptor of its socket."""
        words = [
            program("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-machine", "pc", "-m", self.memory, "-smp", str(self.cpus),
            *self._accelerator(),
            "-kernel", str(self.kernel.vmlinuz), "-initrd", str(self.initrd),
            "-append", " ".join([_CMDLINE, *self._quirks(), self.append]).strip(),
            "-nic", "none",
            "-object", "rng-random,id=rng,filename=/dev/urandom",
            "-device", "virtio-rng-pci,rng=rng",
            "-device", "virtio-serial-pci",
        ]  # fmt: skip
        for name, descriptor in channels.items():
            words += ["-chardev", f"socket,id={name},fd={descriptor}"]
            if name == CONSOLE:
                words += ["-serial", f"chardev:{name}"]
            else:
                port = f"virtserialport,chardev={name},name=agentcgroup.{name}"
                words += ["-device", port]
        for disk in self.disks:
            path = str(disk.image).replace(",", ",,")
            options = {"ro": "readonly=on", "rw": "cache=unsafe", "scratch": "snapshot=on"}
            drive = f"file={path},if=none,id={disk.serial},format=raw,{options[disk.mode]}"
            words += [
                "-drive", drive,
                "-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}",
            ]  # fmt: skip
        return words

    def _quirks(self) -> list[str]:
        # Kernels up to 6.16 panic at boot when they use cmpxchg16b under emulation. They must not
        # see it; programs must (numpy's wheels insist), so `-cpu max,-cx16` would be too much.
        return ["clearcpuid=141"] if self.kernel.avoids_cx16 and not self.kvm else []

    def _accelerator(self) -> list[str]:
        if self.kvm:
            return ["-accel", "kvm", "-cpu", "host"]
        # One thread for all CPUs: with one each, 7.3 panics now and then when a static key flips.
        return ["-accel", "tcg,thread=single", "-cpu", "max"]


@contextlib.contextmanager
def running(
    machine: Machine, scratch: Path
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, socket.socket]]]:
    """QEMU with its channels; it never outlives this block, nor this process."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}
    try:
        for name in (CONSOLE, *PORTS):
            ours[name], end = socket.socketpair()
            theirs[name] = _moved_up(end)
        descriptors = {name: end.fileno() for name, end in theirs.items()}
        process = subprocess.Popen(
            machine.command(descriptors),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=list(descriptors.values()),
            env={**os.environ, "TMPDIR": str(scratch)},
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  # no threads here
        )
    except BaseException:
        for end in (*ours.values(), *theirs.values()):
            end.close()
        raise
    for end in theirs.values():
        end.close()
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
        for end in ours.values():
            end.close()


def _moved_up(end: socket.socket) -> socket.socket:
    """The same socket on a descriptor that a wrapper script around QEMU won't use for itself."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
    end.close()
    return socket.socket(fileno=moved)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kvm_works(cache: Cache, kernel: kernels.BootKernel, scratch: Path) -> bool:
    """Whether a guest really boots under KVM here; asked once per machine and QEMU, remembered."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    version = call([program("qemu-system-x86_64"), "--version"]).splitlines()[0]
    here = f"{os.uname().release} {os.uname().nodename} {version}"
    record = cache.path("kvm.json")
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("machine") == here:
            return bool(known["works"])
    works = _probe(kernel, scratch)
    say("KVM works here" if works else "KVM does not run a guest here: using emulation (slower)")
    record.write_text(json.dumps({"machine": here, "works": works}) + "\n", encoding="utf-8")
    return works


def _probe(kernel: kernels.BootKernel, scratch: Path) -> bool:
    image = scratch / "probe-initrd"
    kernels.initrd(kernel, image)
    machine = Machine(kernel, image, "512M", 1, kvm=True, append="agentcgroup.probe")
    seen = b""
    with running(machine, scratch) as (process, channels):
        console = channels[CONSOLE]
        console.settimeout(PROBE_TIMEOUT_S)
        with contextlib.suppress(OSError):
            while PROBE_ANSWER not in seen and (data := console.recv(65536)):
                seen += data
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
    return PROBE_ANSWER in seen
