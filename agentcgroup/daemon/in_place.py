# SPDX-License-Identifier: Apache-2.0
"""A cgroup that is there already becomes a session where it is, and back (DESIGN: cgroup layout).

Its processes move to agent/ (no internal processes), tools/ is made beside it. Its own limits
stay: a budget that is asked for holds on tools/. Only cpu.weight is written at the cgroup
itself, if it has the kernel's default, and written back. Bytes.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping

from ..cgroupfs import files, parse, tree
from ..cgroupfs.api import CgroupLike
from ..enforce.files import cpu_max_text
from ..errors import CgroupGoneError, InvalidValueError, NotSupportedError
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..protocol.messages import SessionUpdate
from ..types.sessions import SessionSpec
from . import layout
from .records import ADOPTED_XATTR, CONTAINER_XATTR, SESSION_XATTR, SessionRecord

__all__ = [
    "forget_link", "is_root_of_others", "lift_limits", "links", "merge", "note_link",
    "own_limit_change", "split", "with_own_limits", "write_limits",
]  # fmt: skip

_DEFAULT_CPU_WEIGHT = "100"
# Each round moves who was there; a fork or `docker exec` in between makes one more.
_ROUNDS = 50
_log = get_logger(__name__)


def split(cgroup: CgroupLike) -> tuple[CgroupLike, CgroupLike, dict[str, str]]:
    """agent/, tools/ and what the cgroup's files said before; undone when a step fails.

    One that an earlier daemon had split and lost is put together first. Raises target_refused
    for a cgroup that can't be a session.
    """
    if cgroup.get_xattr(SESSION_XATTR) is not None:
        merge(cgroup, {})
    _check(cgroup)
    was = {files.CGROUP_SUBTREE_CONTROL: cgroup.try_read(files.CGROUP_SUBTREE_CONTROL) or ""}
    if cgroup.try_read(files.CPU_WEIGHT) == _DEFAULT_CPU_WEIGHT:
        was[files.CPU_WEIGHT] = _DEFAULT_CPU_WEIGHT
    try:
        agent = cgroup.create(layout.AGENT)
        _enable_emptied(cgroup, agent)
        tools = cgroup.create(layout.TOOLS)
        layout.enable_controllers(tools)
    except BaseException:
        with contextlib.suppress(OSError):
            merge(cgroup, was)
        raise
    return agent, tools, was


def merge(cgroup: CgroupLike, was: Mapping[str, str]) -> None:
    """Everybody below back into the cgroup itself, agent/ and tools/ gone, its files as before.

    Nothing is left to do for a cgroup that is gone.
    """
    rooms = [name for name in (layout.TOOLS, layout.AGENT) if name in _children(cgroup)]
    keep = parse.words(was.get(files.CGROUP_SUBTREE_CONTROL, ""))
    with contextlib.suppress(CgroupGoneError):
        for name in rooms:
            with cgroup.child(name) as room:
                for below in tree.walk(room):
                    below.freeze(False)
                _disable(room, frozenset())
        # Processes may enter it again only after no controller is left for its children.
        _disable(cgroup, keep)
        for _ in range(_ROUNDS):
            if not _move_up(cgroup, rooms):
                break
        for name in rooms:
            with cgroup.child(name) as room:
                room.remove_tree()
        if files.CPU_WEIGHT in was:
            cgroup.write(files.CPU_WEIGHT, was[files.CPU_WEIGHT])
        cgroup.remove_xattr(SESSION_XATTR)


def with_own_limits(spec: SessionSpec, cgroup: CgroupLike) -> SessionSpec:
    """The cgroup's own memory.max and pids.max are the budget, where none is asked for.

    Raises InvalidValueError for a budget beyond them: the kernel would not give it.
    """
    found: dict[str, int] = {}
    for field, file in (("memory", files.MEMORY_MAX), ("pids_max", files.PIDS_MAX)):
        text = cgroup.try_read(file) or files.MAX
        asked = getattr(spec, field)
        if text == files.MAX:
            continue
        if asked is None:
            found[field] = int(text)
        elif asked > int(text):
            raise InvalidValueError(
                field, asked, f"the cgroup's own {file} is {text}: ask for at most that"
            )
    return spec.model_copy(update=found)


def own_limit_change(record: SessionRecord) -> SessionUpdate | None:
    """What its session must learn after somebody changed the cgroup's own memory.max."""
    text = record.cgroup.try_read(files.MEMORY_MAX) or files.MAX
    if text == files.MAX:
        return None
    memory, limit = record.spec.memory, int(text)
    # Noted where no other budget was asked for.
    own = memory is None or files.MEMORY_MAX in record.was
    wanted = limit if own or memory is None else min(memory, limit)
    return None if wanted == memory else SessionUpdate(session=record.name, memory=wanted)


def write_limits(record: SessionRecord, *, pids_reserve: int) -> None:
    """As of a session in the tree, but on tools/ and agent/."""
    layout.write_room_limits(
        record.agent, record.tools, record.spec.memory,
        reserve_bytes=record.reserve_bytes, pids_max=record.pids_max, pids_reserve=pids_reserve,
    )  # fmt: skip
    with contextlib.suppress(NotSupportedError):
        record.tools.write(files.CPU_MAX, cpu_max_text(record.spec.cpu))
    layout.bound_descendants(record.tools)
    if files.CPU_WEIGHT in record.was:
        record.cgroup.write(files.CPU_WEIGHT, str(layout.SESSION_CPU_WEIGHT[record.spec.priority]))


def lift_limits(record: SessionRecord) -> None:
    layout.lift_room_limits(record.agent, record.tools)
    with contextlib.suppress(NotSupportedError):
        record.tools.write(files.CPU_MAX, cpu_max_text(None))
    if files.CPU_WEIGHT in record.was:
        record.cgroup.write(files.CPU_WEIGHT, record.was[files.CPU_WEIGHT])


# --- the way from the tree to what is not in it


def note_link(root: CgroupLike, name: str, cgroup: CgroupLike) -> None:
    """So that a later daemon, and the guardian, find it."""
    root.set_xattr(ADOPTED_XATTR + name, cgroup.path.encode())


def forget_link(root: CgroupLike, name: str) -> None:
    root.remove_xattr(ADOPTED_XATTR + name)


def links(root: CgroupLike) -> dict[str, str]:
    """Directory of every session in place, by its name."""
    found = {}
    for attribute in root.list_xattrs():
        if attribute.startswith(ADOPTED_XATTR):
            path = root.get_xattr(attribute)
            if path:
                found[attribute.removeprefix(ADOPTED_XATTR)] = path.decode(errors="replace")
    return found


def is_root_of_others(root: CgroupLike) -> bool:
    """Removing the root would lose what is kept there of sessions and containers elsewhere."""
    kept = (ADOPTED_XATTR, CONTAINER_XATTR)
    return any(attribute.startswith(kept) for attribute in root.list_xattrs())


# --- parts


def _check(cgroup: CgroupLike) -> None:
    kind = cgroup.try_read(files.CGROUP_TYPE)
    if kind is None:
        raise _refused("it is the root of the hierarchy", cgroup, "name a cgroup below it")
    if kind != "domain":
        raise _refused(f"its type is '{kind}'", cgroup, "only a domain cgroup can be divided")
    own = cgroup.children()
    if own:
        shown = ", ".join(own[:3]) + (", …" if len(own) > 3 else "")
        raise _refused(
            f"it has cgroups of its own ({shown})", cgroup,
            "who manages cgroups inside keeps them: attach a process of it instead",
        )  # fmt: skip


def _enable_emptied(cgroup: CgroupLike, agent: CgroupLike) -> None:
    """Controllers can be turned on in the moment when nobody is in the cgroup itself."""
    for last in range(_ROUNDS - 1, -1, -1):
        for pid in cgroup.procs():
            with contextlib.suppress(ProcessLookupError):
                agent.move(pid)
        try:
            missing = layout.enable_controllers(cgroup)
        except CgroupGoneError:
            raise
        except OSError as error:
            if error.errno != errno.EBUSY or not last:
                raise
            continue
        if "memory" in missing:
            raise _refused(
                "the memory controller is not on for it", cgroup,
                "add memory to cgroup.subtree_control of every cgroup above",
            )  # fmt: skip
        return


def _disable(cgroup: CgroupLike, keep: frozenset[str] | set[str]) -> None:
    on = parse.words(cgroup.try_read(files.CGROUP_SUBTREE_CONTROL) or "")
    gone = sorted(on - set(keep))
    if gone:
        cgroup.write(files.CGROUP_SUBTREE_CONTROL, " ".join(f"-{name}" for name in gone))


def _move_up(cgroup: CgroupLike, rooms: list[str]) -> int:
    """One round; how many processes were still below."""
    moved = 0
    for below in _everything(cgroup, rooms):
        for pid in below.procs():
            moved += 1
            with contextlib.suppress(ProcessLookupError):
                cgroup.move(pid)
    return moved


def _everything(cgroup: CgroupLike, rooms: list[str]) -> Iterator[CgroupLike]:
    for name in rooms:
        with cgroup.child(name) as room:
            yield room
            yield from tree.walk(room)


def _children(cgroup: CgroupLike) -> list[str]:
    try:
        return cgroup.children()
    except CgroupGoneError:
        return []


def _refused(why: str, cgroup: CgroupLike, remedy: str) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED, f"cannot make a session of this cgroup: {why}", field="cgroup",
        value=cgroup.path, remedy=remedy,
    )  # fmt: skip
