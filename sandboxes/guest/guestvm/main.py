# SPDX-License-Identifier: Apache-2.0
"""Command line of sandboxes/guest/run: options, what gets built, one or two boots."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import tarfile
import traceback
from pathlib import Path
from types import FrameType

from guestvm import kernel as kernels
from guestvm import kmod, product, qemu, session, userland
from guestvm.host import (
    Cache,
    GuestError,
    call,
    install_missing,
    make_ext4,
    program,
    run_directory,
    say,
    tree_size_bytes,
)
from guestvm.roles import ROLES

CHECKOUT = Path(__file__).resolve().parents[3]
LOST = 125
OUT_SIZE_BYTES = 4 << 30  # virtual; the file is sparse


class InterruptedBySignalError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="sandboxes/guest/run",
        description="Run CMD as root in a throwaway Debian guest with this checkout installed.",
        epilog="Exit status: CMD's own; 125 if the guest could not be built or was lost; 2 usage.",
    )
    made.add_argument("--kernel", choices=tuple(ROLES), default="newest", help="kernel role")
    made.add_argument("--memory", default="4G", help="the guest's memory (default 4G)")
    made.add_argument("--cpus", type=int, default=2, help="its CPUs (default 2)")
    made.add_argument("--share", type=Path, metavar="DIR", help="read-only at /mnt/share")
    made.add_argument("--out", type=Path, metavar="DIR", help="receives what is in /mnt/out")
    made.add_argument("--timeout", type=float, default=3600, metavar="S", help="default 3600")
    made.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for CMD")
    made.add_argument("--systemd", action="store_true", help="systemd is PID 1, CMD a service")
    made.add_argument("--console", action="store_true", help="show the guest's console on stderr")
    made.add_argument("--build", action="store_true", help="build what the role needs, no boot")
    made.add_argument("--update", action="store_true", help="first forget kernels and userlands")
    made.add_argument("--kernels", action="store_true", help="print role, package, version")
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD...")
    return made


def main(arguments: list[str]) -> int:
    made = parser()
    options = made.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not (options.command or options.build or options.kernels or options.update):
        made.error("give a command after --, or --build")
    if options.share is not None and not options.share.is_dir():
        made.error(f"--share {options.share}: not a directory")
    if any("=" not in setting for setting in options.env):
        made.error("--env takes NAME=VALUE")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _main(options)
    except GuestError as error:
        say(str(error))
        return LOST
    except InterruptedBySignalError as interrupted:
        return 128 + interrupted.number
    except Exception:
        # Our own fault must not look like the command's exit status 1.
        traceback.print_exc()
        return LOST


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up that the first one started.
    for every in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(every, signal.SIG_IGN)
    raise InterruptedBySignalError(number)


def _main(options: argparse.Namespace) -> int:
    cache = Cache()
    install_missing(cache)
    if options.update:
        kernels.forget(cache)
        for old in cache.directory.glob("userland-*"):
            shutil.rmtree(old, ignore_errors=True)
    if options.kernels:
        for name, known in kernels.recorded(cache).items():
            print(f"{name}\t{known.package}\t{known.package_version}")
        if not (options.command or options.build):
            return 0
    kernel = kernels.resolve(cache, ROLES[options.kernel])
    guest = userland.ensure(cache, kernel.userland, CHECKOUT)
    module = kmod.ensure(cache, CHECKOUT, kernel)
    headers = kmod.headers_image(cache, kernel)
    disk = product.ensure(cache, CHECKOUT, guest, module)
    if not options.command:
        return 0
    with run_directory(cache) as scratch:
        disks = [
            qemu.Disk("root", guest.image, "scratch"),
            qemu.Disk("modules", kernel.modules_image, "ro"),
            qemu.Disk("product", disk, "ro"),
            qemu.Disk("control", _control(options, scratch / "control.tar"), "ro"),
            qemu.Disk("out", scratch / "out.img", "rw"),
        ]
        if headers is not None:
            disks.append(qemu.Disk("headers", headers, "ro"))
        if options.share is not None:
            disks.append(qemu.Disk("share", _share(options.share, scratch / "share.img"), "ro"))
        initrd = scratch / "initrd"
        kernels.initrd(kernel, initrd)
        machine = qemu.Machine(
            kernel, initrd, options.memory, options.cpus,
            kvm=qemu.kvm_works(cache, kernel, scratch), disks=disks,
        )  # fmt: skip
        return _boot(options, machine, scratch)


def _boot(options: argparse.Namespace, machine: qemu.Machine, scratch: Path) -> int:
    out = scratch / "out.img"
    for attempt in (1, 2):
        out.unlink(missing_ok=True)
        make_ext4(out, OUT_SIZE_BYTES, label="out")
        ending = session.boot(machine, scratch, options.timeout, _show if options.console else None)
        if attempt == 1 and ending.known_panic:
            say("the emulated kernel hit a known fault (int3); starting once more")
            continue
        break
    if options.out is not None:
        _take_out(out, options.out, scratch)
    if ending.exit_code is None:
        say(f"the guest was lost ({machine.kernel.release}): {ending.reason}; its last lines:")
        for line in ending.console:
            print(f"  | {line}", file=sys.stderr)
        return LOST
    return ending.exit_code


def _show(data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, data)


def _control(options: argparse.Namespace, target: Path) -> Path:
    """What the guest's scripts read: the command, its environment, settings."""
    environment = []
    for setting in options.env:
        name, value = setting.split("=", 1)
        environment.append(f"export {name}={shlex.quote(value)}")
    environment.append(f"export AGENTCGROUP_GUEST_KERNEL={options.kernel}")
    texts = {
        "command": "exec " + shlex.join(options.command),
        "environment": "\n".join(environment),
        "settings": f"guest_systemd={int(options.systemd)}",
    }
    with tarfile.open(target, "w") as archive:
        for name, text in texts.items():
            data = (text + "\n").encode("utf-8", "surrogateescape")
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target


def _share(directory: Path, image: Path) -> Path:
    room = int(tree_size_bytes(directory) * 1.1) + (8 << 20)
    make_ext4(image, room, source=directory, label="share")
    return image


def _take_out(image: Path, target: Path, scratch: Path) -> None:
    """Copy what the command left in /mnt/out, without mounting."""
    taken = scratch / "taken"
    taken.mkdir()
    call([program("debugfs"), "-R", f'rdump / "{taken}"', image])
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(taken, target, symlinks=True, dirs_exist_ok=True)
