# SPDX-License-Identifier: Apache-2.0
"""Removed memcgs that page cache keeps alive: when it is asked back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.janitor import Janitor


class Tools:
    """A tools/ with `dying` removed memcgs below it; notes what is asked back."""

    def __init__(self) -> None:
        self.dying = 0
        self.asked_bytes: list[int] = []

    def try_read(self, name: str) -> str | None:
        return f"nr_dying_descendants {self.dying}" if name == files.CGROUP_STAT else None

    def write(self, name: str, text: str) -> None:
        assert name == files.MEMORY_RECLAIM
        self.asked_bytes.append(int(text))

    def children(self) -> list[str]:
        return []


async def looks(janitor: Janitor, session: Any, tools: Tools, dying: list[int]) -> list[int]:
    """How often memory had been asked back after each look."""
    found = []
    for tools.dying in dying:
        await janitor._care_for(session)
        found.append(len(tools.asked_bytes))
    return found


@pytest.mark.parametrize(
    ("dying", "asked"),
    [
        ([0, 150, 0], [0, 0, 0]),
        ([500, 1, 500, 0], [0, 0, 0, 0]),
        ([500, 500, 500, 100, 500], [0, 1, 2, 2, 2]),
    ],
    ids=["few", "the kernel was late", "they stay"],
)
def test_cache_is_asked_back_when_many_removed_memcgs_stay(
    dying: list[int], asked: list[int]
) -> None:
    async def idle(_name: str) -> None:
        return

    async def never(session: object) -> None:
        raise AssertionError(session)

    tools = Tools()
    session = SimpleNamespace(
        name="s", tools=tools, calls={}, background=None, needs_care=True, many_dying=False
    )
    core = cast(Core, SimpleNamespace(calls={}))
    janitor = Janitor(core, idle, never, lambda: None)
    assert asyncio.run(looks(janitor, session, tools, dying)) == asked
    assert session.needs_care is (tools.dying > 200)
