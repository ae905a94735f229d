# SPDX-License-Identifier: Apache-2.0
"""Attaches our memory hooks wherever the kernel's or a module's BTF has struct memcg_bpf_ops.

Opening does everything that can fail. Afterwards: a line per cgroup id, a lease that must be
renewed, counters, and a descriptor that becomes readable when somebody detached the hooks.
Which members an implementation takes is tried, not assumed: the protection hooks may be in
its type and yet be refused.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotSupportedError
from ..log import get_logger
from .btf import Btf, Kind
from .decode import RecordLayout, check_version
from .objects import BpfObject, hung_up, read_image

__all__ = ["MODULE", "Line", "MemcgOps", "Offer", "find_offer"]

OBJECT = "memcg_ops.bpf.o"
MODULE = "agentcgroup_memcg"
TYPE = "memcg_bpf_ops"

_BTF_DIRECTORY = Path("/sys/kernel/btf")
_MODULES = Path("/lib/modules")
_MEMCG = ("struct mem_cgroup *",)
_DELAY = "get_high_delay_ms"
_DELAYING = "acg_delaying"
_PROTECTING = "acg_protecting"
# member -> our program for it; those of the second table may be missing
_NEEDED = {
    _DELAY: "acg_high_delay_ms",
    "handle_cgroup_online": "acg_cgroup_online",
    "handle_cgroup_offline": "acg_cgroup_offline",
}
_PROTECTION = {"below_low": "acg_below_low", "below_min": "acg_below_min"}
_COUNTS = ("asked", "delayed", "online", "offline")

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """What the hooks look up for one cgroup; struct acg_line. No step: no delay."""

    start_bytes: int = 0
    stop_bytes: int = 0
    step_bytes: int = 0
    delay_ms: tuple[int, ...] = ()
    protected_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """Who offers the hooks, and whether those for protection are among them."""

    by: str
    protection: bool


def find_offer() -> Offer:
    """Who offers the hooks here. Raises NotSupportedError with what to do if nobody does."""
    kernel = Btf.of_kernel()
    try:
        if kernel.try_find(TYPE, Kind.STRUCT) is not None:
            return _inspect(kernel, "the kernel")
        for name in _modules_that_name(TYPE):
            try:
                module = Btf.of_module(name, kernel)
            except OSError as error:
                _log.debug("module %s: %s", name, error)
                continue
            try:
                if module.try_find(TYPE, Kind.STRUCT) is not None:
                    return _inspect(module, f"module {name}")
            finally:
                module.close()
    finally:
        kernel.close()
    raise NotSupportedError(_why_nobody())


def _inspect(table: Btf, by: str) -> Offer:
    found = table.try_find(TYPE, Kind.STRUCT)
    assert found is not None
    members = {member.name: table.callback_parameters(member) for member in table.members(found)}
    for name in _NEEDED:
        if members.get(name) is None:
            others = ", ".join(members)
            raise NotSupportedError(f"struct {TYPE} of {by} has no {name} (it has {others})")
        if members[name] != _MEMCG:
            told = ", ".join(members[name] or ())
            raise NotSupportedError(f"{name} of {by} takes ({told}), not ({', '.join(_MEMCG)})")
    return Offer(by, all(members.get(name) == _MEMCG for name in _PROTECTION))


def _modules_that_name(type_name: str) -> list[str]:
    """Loaded modules with the name in their BTF; reading them is cheaper than parsing."""
    needle = f"\0{type_name}\0".encode()
    found = []
    for module in sorted(_BTF_DIRECTORY.iterdir()):
        try:
            if module.name != "vmlinux" and needle in module.read_bytes():
                found.append(module.name)
        except OSError as error:  # unloaded meanwhile
            _log.debug("%s: %s", module, error)
    return found


def _why_nobody() -> str:
    """Absent, not loaded, loaded without BTF, or built for another kernel."""
    release = os.uname().release
    nobody = f"neither the kernel nor a module offers {TYPE}"
    if Path("/sys/module", MODULE).is_dir():
        return f"{nobody}: {MODULE} is loaded without BTF: rebuild it with pahole installed"
    installed = sorted(_releases_with(MODULE))
    if release in installed:
        return f"{nobody}: load it: modprobe {MODULE}"
    if installed:
        return (
            f"{nobody}: {MODULE} is installed for kernel {', '.join(installed)}, this is"
            f" {release}: build and install it for this one (bpf/kmod/README.md)"
        )
    return f"{nobody}: build and load the optional module (bpf/kmod/README.md)"


def _releases_with(module: str) -> Iterable[str]:
    for directory in ("extra", "updates"):
        for path in _MODULES.glob(f"*/{directory}/**/{module}.ko*"):
            yield path.relative_to(_MODULES).parts[0]


class MemcgOps:
    """The attached hooks. `close` detaches them; delays that run end by themselves."""

    def __init__(self, loaded: BpfObject, link_fd: int, offer: Offer) -> None:
        """Use `open`."""
        self._object = loaded
        self._link_fd = link_fd
        self._layout = RecordLayout.from_btf(loaded.btf, "acg_line")
        self.offer = offer

    @classmethod
    def open(cls) -> MemcgOps:
        """Attach. Raises NotSupportedError; then nothing is left attached."""
        offer = find_offer()
        try:
            return cls._open(offer)
        except OSError as error:
            if isinstance(error, NotSupportedError):
                raise
            raise NotSupportedError(
                f"the hooks of {offer.by} can't be used: {error.strerror or error}"
            ) from error

    @classmethod
    def _open(cls, offer: Offer) -> MemcgOps:
        loaded = BpfObject(read_image(OBJECT), OBJECT)
        try:
            check_version(loaded.read_constant("acg_abi_version"))
            loaded.set_constant("acg_page_bytes", os.sysconf("SC_PAGE_SIZE"))
            programs = dict(_NEEDED)
            if offer.protection:
                programs |= _PROTECTION
            else:
                loaded.leave_out(_PROTECTING)
            loaded.select(programs.values())
            loaded.load()
            fd, offer = _attach(loaded, offer)
            return cls(loaded, fd, offer)
        except BaseException:
            loaded.close()
            raise

    def set(self, cgroup_id: int, line: Line) -> None:
        """Raises OSError if the kernel takes no more lines."""
        fields = {
            "start_bytes": line.start_bytes, "stop_bytes": line.stop_bytes,
            "step_bytes": line.step_bytes, "protected_bytes": line.protected_bytes,
            "delay_ms": b"".join(_U32.pack(ms) for ms in line.delay_ms), "delayed": 0,
        }  # fmt: skip
        self._object.update("acg_lines", _U64.pack(cgroup_id), self._layout.write(fields))

    def clear(self, cgroup_id: int) -> None:
        self._object.delete("acg_lines", _U64.pack(cgroup_id))

    def renew(self, until_ns: int) -> None:
        """Lines hold until this CLOCK_MONOTONIC time."""
        self._object.update("acg_lease", _U32.pack(0), _U64.pack(until_ns))

    def counts(self) -> dict[str, int]:
        """Hooks called so far: asked and delayed for cgroups with a line."""
        values = self._object.read_u64_array("acg_hook_counts", len(_COUNTS))
        return dict(zip(_COUNTS, values, strict=True))

    def fileno(self) -> int:
        """Readable (hung up) once the hooks were detached by somebody else."""
        return self._link_fd

    def detached(self) -> bool:
        return hung_up(self._link_fd)

    def close(self) -> None:
        self._object.close()


def _attach(loaded: BpfObject, offer: Offer) -> tuple[int, Offer]:
    if offer.protection:
        try:
            return loaded.attach_hooks(_PROTECTING), offer
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise _refusal(offer, error) from None
    try:
        return loaded.attach_hooks(_DELAYING), Offer(offer.by, protection=False)
    except OSError as error:
        raise _refusal(offer, error) from None


def _refusal(offer: Offer, error: OSError) -> NotSupportedError:
    if error.errno == errno.EBUSY:
        return NotSupportedError(
            f"the hooks of {offer.by} are taken: another program is attached to them"
            " (bpftool link list)"
        )
    return NotSupportedError(f"{offer.by} refuses the hooks: {os.strerror(error.errno or 0)}")
