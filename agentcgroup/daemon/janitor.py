# SPDX-License-Identifier: Apache-2.0
"""Slow housekeeping: page cache that keeps removed memcgs alive, leaves left behind, sessions
whose adopted cgroup was removed, and those made for one call that somebody else than its caller
ended.

A removed cgroup's memcg lives on while pages are charged to it ("dying"). Each costs
kernel memory, so past a bound the tree's page cache is reclaimed in small portions. Not at
the first sight: where the pages of a removed memcg go to its parent, the kernel is only late,
and cache is worth something to the calls to come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ..cgroupfs import files, parse
from ..cgroupfs.api import CgroupLike
from ..enforce.files import reclaim
from ..errors import CgroupGoneError
from ..units import MIB
from .core import Core
from .layout import BACKGROUND
from .records import SessionRecord

__all__ = ["Janitor"]

_EVERY_S = 2.0
_DYING_MOST = 200
_PORTION_BYTES = 64 * MIB


class Janitor:
    def __init__(
        self,
        core: Core,
        end_if_idle: Callable[[str], Awaitable[None]],
        end_session: Callable[[SessionRecord], Awaitable[object]],
        drain: Callable[[], None],
    ) -> None:
        self._core = core
        self._drain = drain
        self._end_if_idle = end_if_idle
        self._end_session = end_session
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self._drain()
            for session in list(self._core.sessions.values()):
                if session.in_place is not None and not session.cgroup.exists():
                    with contextlib.suppress(OSError):
                        await self._end_removed(session)
                elif session.needs_care or session.calls:
                    with contextlib.suppress(CgroupGoneError, OSError):
                        await self._care_for(session)

    async def _end_removed(self, session: SessionRecord) -> None:
        if not session.ending:
            await self._end_session(session)

    async def _care_for(self, session: SessionRecord) -> None:
        """An idle session costs nothing: it needs care again after its next call."""
        session.needs_care = bool(session.calls) or session.background is not None
        self._remove_leftovers(session.tools)
        if await self._release_dying(session):
            session.needs_care = True
        await self._end_if_idle(session.name)

    def _remove_leftovers(self, tools: CgroupLike) -> None:
        for name in tools.children():
            if name == BACKGROUND or name in self._core.calls:
                continue
            with contextlib.suppress(CgroupGoneError, OSError), tools.child(name) as leaf:
                if not leaf.populated():
                    leaf.remove_tree()

    @staticmethod
    async def _release_dying(session: SessionRecord) -> bool:
        stat = parse.flat_keyed(session.tools.try_read(files.CGROUP_STAT) or "")
        dying = stat.get("nr_dying_subsys_memory", stat.get("nr_dying_descendants", 0))
        many_before, session.many_dying = session.many_dying, dying > _DYING_MOST
        if many_before and session.many_dying:
            await asyncio.to_thread(reclaim, session.tools, _PORTION_BYTES)
        return session.many_dying
