# SPDX-License-Identifier: Apache-2.0
"""Where a process stands: cgroup path -> session and place in it.

Most sessions are directories of the tree. One that was adopted in place stays where its
cgroup is, somewhere else in the hierarchy. Paths are as /proc/PID/cgroup shows them.
"""

from __future__ import annotations

from . import layout
from .core import Core
from .identity import Location
from .records import CallRecord, SessionRecord

__all__ = ["Places"]


class Places:
    """`tree_path` is the tree's own, without a final slash."""

    def __init__(self, core: Core, tree_path: str) -> None:
        self._core = core
        self._tree_path = tree_path

    def locate(self, cgroup_path: str) -> Location | None:
        """None if it is in no session."""
        found = self._in_tree(cgroup_path) or self._in_place(cgroup_path)
        if found is None:
            return None
        session, rest = found
        room, _, inner = rest.partition("/")
        if room != layout.TOOLS:
            return Location(session, "agent" if room else "session")
        call = inner.partition("/")[0]
        if call == layout.BACKGROUND:
            return Location(session, "background")
        return Location(session, "leaf", call or None)

    def taken(self, cgroup_path: str) -> bool:
        """The tree itself, or in a session of any kind: nobody else's to place or adopt."""
        in_tree = cgroup_path == self._tree_path or cgroup_path.startswith(self._tree_path + "/")
        return in_tree or self._in_place(cgroup_path) is not None

    def above_tree(self, cgroup_path: str) -> bool:
        return f"{self._tree_path}/".startswith(cgroup_path.rstrip("/") + "/")

    def room(self, session: SessionRecord) -> str:
        return session.in_place or f"{self._tree_path}/{session.name}"

    def leaf(self, record: CallRecord) -> str:
        session = self._core.sessions[record.session]
        return f"{self.room(session)}/{layout.TOOLS}/{record.name}"

    def _in_tree(self, cgroup_path: str) -> tuple[str, str] | None:
        prefix = self._tree_path + "/"
        if not cgroup_path.startswith(prefix):
            return None
        session, _, rest = cgroup_path[len(prefix) :].partition("/")
        return (session, rest) if session in self._core.sessions else None

    def _in_place(self, cgroup_path: str) -> tuple[str, str] | None:
        """Up from the cgroup itself: a handful of look-ups, however many sessions there are."""
        known, head = self._core.in_place, cgroup_path
        while known and head:
            session = known.get(head)
            if session is not None:
                return session, cgroup_path[len(head) + 1 :]
            head = head.rpartition("/")[0]
        return None
