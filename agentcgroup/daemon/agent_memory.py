# SPDX-License-Identifier: Apache-2.0
"""What a session holds beside its tool calls: its agent, what runs on in the background, and
files that ended calls left in tmpfs. For policy it is all the agent's. Bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ..cgroupfs import files, parse, proc
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError
from ..types import inputs as i
from ..units import MIB
from .core import Core
from .records import SessionRecord

__all__ = ["cache_bytes", "reclaimable_bytes", "sample_agent", "sample_agent_if_stale"]

_WORTH_A_LOOK_BYTES = 8 * MIB


def sample_agent(core: Core, session: SessionRecord, now_ns: int) -> None:
    held = _unreclaimable_bytes(session.agent) + _left_behind_bytes(session)
    if session.background is not None:
        held += _unreclaimable_bytes(session.background)
    if session.in_place is not None:
        held += _charged_before_bytes(session)
    core.record_session_sample(session.name, now_ns)
    core.feed(i.AgentSample(now_ns, session.name, held))


def sample_agent_if_stale(core: Core, session: SessionRecord, now_ns: int) -> None:
    """Nobody looks at a session without calls. What it held beyond its reserve when the last
    one ended would be missing for the next, although it may be gone."""
    known = core.state.sessions.get(session.name)
    if known is not None and not known.calls and known.agent_bytes > known.reserve_bytes:
        sample_agent(core, session, now_ns)


def _left_behind_bytes(session: SessionRecord) -> int:
    """Charged to tools/ and to no leaf in it: what ended calls left in tmpfs. Cache of calls
    that still run is subtracted as well: it may be more than this, never less."""
    below = [call.leaf for call in session.calls.values() if call.leaf is not None]
    if session.background is not None:
        below.append(session.background)
    left = _current_bytes(session.tools) - sum(map(_current_bytes, below))
    return max(0, left - cache_bytes(session.tools)) if left > _WORTH_A_LOOK_BYTES else 0


def _charged_before_bytes(session: SessionRecord) -> int:
    """Of a cgroup adopted in place: what it held by then stays charged to itself, for charges
    do not move with their process (kernel cgroup-v2.rst, memory ownership)."""
    rooms = (session.agent, session.tools)
    own = _current_bytes(session.cgroup) - sum(map(_current_bytes, rooms))
    cache = cache_bytes(session.cgroup) - sum(map(cache_bytes, rooms))
    return max(0, own - max(0, cache))


def _current_bytes(cgroup: CgroupLike) -> int:
    with contextlib.suppress(CgroupGoneError, ValueError):
        return int(cgroup.try_read(files.MEMORY_CURRENT) or 0)
    return 0


def _unreclaimable_bytes(cgroup: CgroupLike) -> int:
    """Memory that page-cache reclaim can't get back."""
    with contextlib.suppress(CgroupGoneError, ValueError):
        current = _current_bytes(cgroup)
        if current < 4 * MIB:
            return current
        return max(0, current - cache_bytes(cgroup))
    return 0


def reclaimable_bytes(leaf: CgroupLike, swap_max_bytes: int) -> int:
    """What memory.reclaim could get back of a call: page cache, and what it may swap out as far
    as the host has swap left."""
    stat = parse.flat_keyed(leaf.try_read(files.MEMORY_STAT) or "")
    found = _cache_bytes(stat)
    if swap_max_bytes > 0:
        swapped = int(leaf.try_read(files.MEMORY_SWAP_CURRENT) or 0)
        room = min(swap_max_bytes - swapped, proc.meminfo_bytes("SwapFree") or 0)
        found += max(0, min(room, stat.get("anon", 0) + stat.get("shmem", 0)))
    return found


def cache_bytes(cgroup: CgroupLike) -> int:
    """Page cache that belongs to files, and slab (kernel memory.stat); tmpfs does not."""
    return _cache_bytes(parse.flat_keyed(cgroup.try_read(files.MEMORY_STAT) or ""))


def _cache_bytes(stat: Mapping[str, int]) -> int:
    return stat.get("file", 0) - stat.get("shmem", 0) + stat.get("slab_reclaimable", 0)
