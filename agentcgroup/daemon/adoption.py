# SPDX-License-Identifier: Apache-2.0
"""`session.adopt`: a process into a session of its own, or a cgroup or container in place."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..cgroupfs import proc
from ..cgroupfs.api import CgroupLike
from ..errors import CgroupGoneError, InvalidValueError
from ..protocol.messages import SessionAdopt
from ..types.sessions import SessionSpec
from .containers import Containers
from .records import SessionRecord
from .session_watch import SessionWatch
from .sessions import Sessions

__all__ = ["Adoption"]

_OF_PLACE = {"pid", "container", "cgroup"}


class Adoption:
    def __init__(
        self,
        sessions: Sessions,
        containers: Containers,
        open_cgroup: Callable[[str], CgroupLike],
        watch: SessionWatch,
    ) -> None:
        """`watch` is told of every session that is made here."""
        self._watch = watch
        self._sessions = sessions
        self._containers = containers
        self._open_cgroup = open_cgroup

    async def adopt(self, params: SessionAdopt, fd: int | None) -> SessionRecord:
        """Owns `fd`, the pidfd that came with the request."""
        if fd is None and params.pid is not None:
            try:
                fd = os.pidfd_open(params.pid)
            except ProcessLookupError:
                raise InvalidValueError("pid", params.pid, "name a process that lives") from None
        try:
            return await self._adopt(params, fd)
        finally:
            if fd is not None:
                os.close(fd)

    async def _adopt(self, params: SessionAdopt, fd: int | None) -> SessionRecord:
        said = params.model_dump(mode="json", exclude=_OF_PLACE, include=params.model_fields_set)
        if params.container is not None:
            record = await self._containers.attach(params.container, said, fd)
            self._watch.changed(record)
            return record
        spec = SessionSpec.model_validate(said)
        if params.cgroup is not None:
            record = self._sessions.adopt_in_place(spec, self._cgroup(params.cgroup), fd)
        elif fd is not None:
            record = self._sessions.create(spec, fd, adopt=True)
        else:
            raise InvalidValueError("pid", None, "name the process to adopt, or send its pidfd")
        self._watch.begin(record)
        return record

    def given_back(self, record: SessionRecord) -> None:
        """By hand: it is not to come again by itself."""
        self._containers.detached(record)

    def _cgroup(self, path: str) -> CgroupLike:
        """The mount is where it ends: no way out by `..`."""
        parts = path.strip("/").split("/")
        if not all(parts) or set(parts) & {".", ".."}:
            raise InvalidValueError("cgroup", path, "write it as /proc/PID/cgroup shows it")
        mount = (proc.cgroup2_mount_point() or "").rstrip("/")
        try:
            return self._open_cgroup("/".join((mount, *parts)))
        except CgroupGoneError:
            raise InvalidValueError("cgroup", path, f"there is no such cgroup in {mount}") from None
