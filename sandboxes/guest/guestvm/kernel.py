# SPDX-License-Identifier: Apache-2.0
"""One kernel, ready to boot: vmlinuz, a small initrd, and a disk with its modules.

The initrd is ours instead of the distribution's: it loads four virtio drivers, mounts the disks
and hands over, which saves seconds under emulation.
"""

from __future__ import annotations

import json
import lzma
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from guestvm import roles
from guestvm.archive import Archive
from guestvm.cpio import Cpio
from guestvm.host import Cache, GuestError, call, make_ext4, program, say, tree_size_bytes

INSIDE = Path(__file__).resolve().parent.parent / "inside"
RECORD = "kernels.json"
RECIPE = "v2"  # raise it to fetch kernels again after a change to this file
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng")


@dataclass(frozen=True)
class BootKernel:
    """A kernel in the cache, and what the archive called it."""

    role: str
    package: str
    package_version: str
    release: str
    userland: str
    sched_ext: bool
    directory: str

    @property
    def vmlinuz(self) -> Path:
        return Path(self.directory) / "vmlinuz"

    @property
    def modules_image(self) -> Path:
        return Path(self.directory) / "modules.img"

    @property
    def avoids_cx16(self) -> bool:
        """6.12 and 6.16 panic at boot with cx16 under QEMU 7.2; 7.3 needs it for BPF timers."""
        numbers = roles.kernels([self.package])[0].version
        return numbers[:2] <= (6, 16)


def recorded(cache: Cache) -> dict[str, BootKernel]:
    """Role -> kernel, of those resolved so far on this machine."""
    path = cache.path(RECORD)
    if not path.exists():
        return {}
    known = {name: BootKernel(**fields) for name, fields in json.loads(path.read_text()).items()}
    return {name: found for name, found in known.items() if found.directory.endswith(RECIPE)}


def forget(cache: Cache) -> None:
    cache.path(RECORD).unlink(missing_ok=True)


def resolve(cache: Cache, role: roles.Role) -> BootKernel:
    """The role's kernel; asks the archive only the first time (or after `forget`)."""
    known = recorded(cache).get(role.name)
    if known is not None and known.vmlinuz.exists():
        return known
    with cache.lock("kernels"):
        known = recorded(cache).get(role.name)
        if known is not None and known.vmlinuz.exists():
            return known
        found = _choose(cache, role)
        every = {**recorded(cache), role.name: found}
        text = json.dumps({name: asdict(kernel) for name, kernel in every.items()}, indent=1)
        fresh = cache.path(RECORD + ".new")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.rename(cache.path(RECORD))
    return found


def _choose(cache: Cache, role: roles.Role) -> BootKernel:
    archive = Archive(cache, role.suite)
    archive.update()
    options = roles.candidates(role, archive.names("^linux-image-"))
    if not options:
        raise GuestError(f"the suite {role.suite} on this machine's mirror has no cloud kernel")
    if role.oldest and len(options) == 1:
        say(f"{role.suite} has one kernel series only: {role.name} is the same as newest")
    for kernel in options:
        version = archive.version(kernel.package)

        def build(work: Path, kernel: roles.Kernel = kernel) -> None:
            _build(archive, kernel, work)

        directory = cache.entry(
            f"kernel-{kernel.release}-{RECIPE}", build, f"fetching {kernel.package}"
        )
        config = (directory / "config").read_text(encoding="utf-8")
        if roles.fits(role, config):
            has = f"{roles.SCHED_EXT}=y" in config.splitlines()
            say(f"role {role.name}: {kernel.package} {version}")
            return BootKernel(
                role.name, kernel.package, version, kernel.release, role.userland, has,
                str(directory),
            )  # fmt: skip
        say(f"{kernel.package} does not fit role {role.name}")
    state = "with" if role.sched_ext else "without"
    raise GuestError(f"no cloud kernel {state} sched_ext in {role.suite}: role {role.name} is void")


def _build(archive: Archive, kernel: roles.Kernel, work: Path) -> None:
    unpacked = work / "unpacked"
    for package in archive.download(archive.kernel_packages(kernel.package), work):
        call(["dpkg-deb", "-x", package, unpacked])
        package.unlink()
    root = work / "root"
    modules = root / "lib/modules"
    modules.mkdir(parents=True)
    for place in ("lib/modules", "usr/lib/modules"):
        if (unpacked / place / kernel.release).is_dir():
            (unpacked / place / kernel.release).rename(modules / kernel.release)
    own = modules / kernel.release
    for name in ("vmlinuz", "config"):
        places = [own / name, unpacked / "boot" / f"{name}-{kernel.release}"]
        source = next((p for p in places if p.exists()), None)
        if source is None:
            raise GuestError(f"{kernel.package} has no {name}")
        shutil.copy(source, work / name)
    # Tools look for the configuration here; the image itself is not needed twice.
    shutil.copy(work / "config", own / "config")
    for name in ("vmlinuz", "System.map"):
        (own / name).unlink(missing_ok=True)
    # As the headers' packages have it; they come on a disk of their own, where there are any.
    for link, target in headers_links(kernel.release).items():
        (own / link).unlink(missing_ok=True)
        (own / link).symlink_to(target)
    call([program("depmod"), "-b", root, kernel.release])
    _initrd_modules(root, kernel.release, work / "initrd-modules")
    make_ext4(
        work / "modules.img", int(tree_size_bytes(modules) * 1.2) + (4 << 20),
        source=modules, label="modules",
    )  # fmt: skip
    shutil.rmtree(unpacked)
    shutil.rmtree(root)


def headers_links(release: str) -> dict[str, str]:
    """Links in a kernel's directory of modules to its headers, which Debian splits in two."""
    flavour = release.removesuffix("-cloud-amd64")
    return {
        "build": f"/usr/src/linux-headers-{release}",
        "source": f"/usr/src/linux-headers-{flavour}-common",
    }


def _initrd_modules(root: Path, release: str, target: Path) -> None:
    """The boot drivers with what they depend on, unpacked, numbered in loading order."""
    target.mkdir()
    seen: list[str] = []
    for name in BOOT_MODULES:
        shown = call([program("modprobe"), "-d", root, "-S", release, "--show-depends", name])
        for line in shown.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "insmod" and rest.split()[0] not in seen:
                seen.append(rest.split()[0])
    for number, path in enumerate(seen):
        data = Path(path).read_bytes()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        stem = Path(path).name.split(".ko")[0]
        (target / f"{number:02d}-{stem}.ko").write_bytes(data)


def initrd(kernel: BootKernel, target: Path) -> None:
    """Write the initrd; made per start, so that it always holds this checkout's scripts."""
    archive = Cpio()
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        archive.directory(name)
    archive.console("dev/console")
    archive.file("bin/busybox", Path(program("busybox")).read_bytes(), executable=True)
    archive.file("init", (INSIDE / "initrd-init").read_bytes(), executable=True)
    for path in sorted((Path(kernel.directory) / "initrd-modules").iterdir()):
        archive.file(f"modules/{path.name}", path.read_bytes())
    target.write_bytes(archive.finish())
