# SPDX-License-Identifier: Apache-2.0
"""Containers as sessions: attached by name, adopted by label as they start, split again after
a restart.

Nothing hangs on the order of the engine's events: each only makes us look at one container and
put right what is not as it should be, and after a gap all of them are looked at. What was
attached or detached by hand is remembered at the tree's root until the container is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ..cgroupfs import proc
from ..cgroupfs.api import CgroupLike
from ..errors import AgentCgroupError, InvalidValueError, NotSupportedError
from ..log import get_logger
from ..protocol.errors import Kind, ProtocolError
from ..sandbox.docker import Container, ContainerEvent, Engine
from ..sandbox.labels import PREFIX, BadLabel, spec_from_labels
from ..types.sessions import SessionKind, SessionSpec
from ..types.validation import parse
from . import in_place
from .config import DockerConfig
from .core import Core
from .records import CONTAINER_XATTR, SessionRecord
from .sessions import Sessions

__all__ = ["Containers"]

_RETRY_S = 2.0
_NAME_LENGTH = 64
_SHORT_ID = 12
_log = get_logger(__name__)


class Containers:
    """`start` it after recovery; `attach` and `detached` are what administrators ask for."""

    def __init__(
        self,
        core: Core,
        root: CgroupLike,
        sessions: Sessions,
        config: DockerConfig,
        open_cgroup: Callable[[str], CgroupLike],
        watch: Callable[[SessionRecord], None],
    ) -> None:
        """`watch` is told of every session that was made."""
        self.end_session: Callable[[SessionRecord], Awaitable[object]] = _nobody
        self._core = core
        self._root = root
        self._sessions = sessions
        self._label, self._host = config.label, config.host
        self._open_cgroup = open_cgroup
        self._watch = watch
        self._engine, self._listener = Engine(config.host), Engine(config.host)
        self._one_at_a_time = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._told = ""

    # --- life

    def start(self) -> None:
        """Listens to the engine if there is any reason to."""
        known = any(s.container is not None for s in self._core.sessions.values())
        if self._label is not None or known or self._remembered():
            self._follow()

    async def stop(self) -> None:
        self._listener.close()
        tasks = [*self._settling, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._engine.close()

    def report(self) -> dict[str, Any]:
        """For `host.status`."""
        return {
            "host": self._host,
            "adopt": str(self._label) if self._label is not None else None,
            "followed": self._following is not None and not self._told,
            "why": self._told or None,
        }

    # --- what administrators ask for

    async def attach(self, name: str, said: dict[str, Any], fd: int | None) -> SessionRecord:
        """`said` wins over labels. With the pidfd of an agent outside, also binds it later."""
        async with self._one_at_a_time:
            container = await self._get(name)
            record = self._session_of(container.id)
            if record is not None and fd is not None and record.kind is SessionKind.OUTSIDE:
                self._sessions.bind(record, fd)
                return record
            if record is not None:
                raise ProtocolError(
                    Kind.ALREADY_EXISTS, f"the container is session '{record.name}' already",
                    field="container", value=name,
                    remedy="change it by session.update, or detach it first",
                )  # fmt: skip
            record = self._adopt(container, said, fd)
            self._remember(container.id, {"wanted": True, "said": said})
        self._follow()
        return record

    def detached(self, record: SessionRecord) -> None:
        """By hand: then neither its label nor its next start makes it a session again."""
        if record.container is not None:
            self._remember(record.container, {"wanted": False})

    # --- one container

    async def _get(self, name: str) -> Container:
        try:
            return await asyncio.to_thread(self._engine.get, name)
        except NotSupportedError as error:
            raise ProtocolError(
                Kind.NOT_SUPPORTED, str(error), field="container", value=name,
                remedy="see that the engine runs, and docker.host in the daemon's configuration",
            ) from None  # fmt: skip

    async def _settle(self, container_id: str) -> None:
        """Whatever happened: is what we have still true, and is there more to adopt?"""
        async with self._one_at_a_time:
            try:
                container = await self._get(container_id)
            except InvalidValueError:
                container = None
            except ProtocolError as error:
                _log.warning("%s", error)
                return
            record = self._session_of(container_id)
            runs = container is not None and container.state.running
            if record is not None and (not runs or not record.cgroup.exists()):
                await self.end_session(record)
                record = None
            if container is None:
                self._root.remove_xattr(CONTAINER_XATTR + container_id)
            elif record is not None:
                record.paused = container.state.paused
                self._follow_limit(record)
            elif runs:
                self._adopt_if_wanted(container)

    def _follow_limit(self, record: SessionRecord) -> None:
        """`docker update --memory` draws the line, whatever was asked for."""
        change = in_place.own_limit_change(record)
        if change is None:
            return
        try:
            self._sessions.update(change, follows=True)
        except (AgentCgroupError, OSError) as error:
            _log.warning("session %s keeps its budget: %s", record.name, error)

    def _adopt_if_wanted(self, container: Container) -> None:
        known = self._remembered().get(container.id)
        by_label = self._label is not None and self._label.matches(container.labels)
        if not (known["wanted"] if known is not None else by_label):
            return
        try:
            self._adopt(container, known["said"] if known is not None else {}, None)
        except (AgentCgroupError, OSError) as error:
            _log.warning("container %s is not adopted: %s", container.name, error)
            self._tell(None, {"event": "refused", "container": container.id, "why": str(error)})

    def _adopt(self, container: Container, said: dict[str, Any], fd: int | None) -> SessionRecord:
        if not container.state.running:
            raise ProtocolError(
                Kind.TARGET_REFUSED, "the container does not run", field="container",
                value=container.name, remedy=f"start it: docker start {container.name}",
            )  # fmt: skip
        by_label, bad = spec_from_labels(container.labels, self._label)
        for field in set(by_label) & set(said):
            del by_label[field]
        record = None
        while record is None:
            try:
                record = self._make(container, {**by_label, **said}, fd)
            except (InvalidValueError, ProtocolError) as error:
                # A budget that the host has not got, a name that is taken: known only here.
                if error.field not in by_label:
                    raise
                value = str(by_label.pop(error.field))
                bad.append(BadLabel(PREFIX + error.field, value, error.remedy))
        self._watch(record)
        record.paused = container.state.paused
        for label in bad:
            _log.warning("container %s: label ignored: %s", container.name, label)
        if bad:
            self._tell(record.name, {"event": "labels_ignored", "labels": [str(b) for b in bad]})
        return record

    def _make(self, container: Container, fields: dict[str, Any], fd: int | None) -> SessionRecord:
        spec = parse(SessionSpec, {"name": self._free_name(container), **fields})
        outside = spec.kind is SessionKind.OUTSIDE
        if fd is not None and not outside:
            raise InvalidValueError(
                "pid", None, "the agent is the container's own, unless the kind is outside"
            )
        with _init_of(container) as init:
            path = proc.cgroup_path(container.pid)
            if path is None or container.id not in path:
                raise ProtocolError(
                    Kind.TARGET_REFUSED, "the container's cgroup cannot be told from its init's",
                    field="container", value=path or container.name,
                    remedy="it may have ended; containers share no cgroup with others",
                )  # fmt: skip
            mount = (proc.cgroup2_mount_point() or "").rstrip("/")
            cgroup = self._open_cgroup(mount + container.cgroup_of(path))
            return self._sessions.adopt_in_place(
                spec, cgroup, fd if outside else init, container.id
            )

    def _free_name(self, container: Container) -> str:
        name = re.sub(r"[^A-Za-z0-9_.:@-]", "-", container.name)[:_NAME_LENGTH]
        taken = name in self._core.sessions or name in ("agent", "tools", "background", "keeper")
        short = container.id[:_SHORT_ID]
        return f"{name[: _NAME_LENGTH - _SHORT_ID - 1]}-{short}" if taken else name

    def _session_of(self, container_id: str) -> SessionRecord | None:
        for record in self._core.sessions.values():
            if record.container == container_id:
                return record
        return None

    # --- the engine's events

    def _follow(self) -> None:
        if self._following is None:
            self._following = asyncio.create_task(self._follow_for_ever())

    async def _follow_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                events = await asyncio.to_thread(self._listener.events)
                ended = loop.create_future()
                threading.Thread(
                    target=_pump, args=(loop, events, self._on_event, ended),
                    name="docker-events", daemon=True,
                ).start()  # fmt: skip
                await self._settle_all()
                self._told = ""
                await ended
                raise NotSupportedError("the Docker engine ended its events")
            except NotSupportedError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.warning("containers are not followed, asking again: %s", error)
                self._listener.close()
            await asyncio.sleep(_RETRY_S)

    def _on_event(self, event: ContainerEvent) -> None:
        record = self._session_of(event.actor.id)
        if record is not None:
            self._tell(record.name, {"event": event.action, "container": event.actor.id})
        task = asyncio.create_task(self._settle(event.actor.id))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_all(self) -> None:
        ids = {s.container for s in self._core.sessions.values() if s.container is not None}
        ids |= set(self._remembered())
        if self._label is not None:
            running = await asyncio.to_thread(self._engine.running, self._label)
            ids |= {container.id for container in running}
        for container_id in sorted(ids):
            await self._settle(container_id)

    # --- what is remembered

    def _remember(self, container_id: str, wish: dict[str, Any]) -> None:
        self._root.set_xattr(CONTAINER_XATTR + container_id, json.dumps(wish).encode())

    def _remembered(self) -> dict[str, dict[str, Any]]:
        found = {}
        for attribute in self._root.list_xattrs():
            raw = self._root.get_xattr(attribute) if attribute.startswith(CONTAINER_XATTR) else None
            if raw is not None:
                found[attribute.removeprefix(CONTAINER_XATTR)] = json.loads(raw)
        return found

    def _tell(self, session: str | None, body: dict[str, Any]) -> None:
        self._core.decisions.record(self._core.clock.now_ns(), "session", session, None, body)


@contextlib.contextmanager
def _init_of(container: Container) -> Iterator[int]:
    try:
        fd = os.pidfd_open(container.pid)
    except (OSError, ValueError):
        raise _just_ended(container) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _just_ended(container: Container) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED, "the container has just ended", field="container",
        value=container.name, remedy=f"start it: docker start {container.name}",
    )  # fmt: skip


def _pump(
    loop: asyncio.AbstractEventLoop,
    events: Iterator[ContainerEvent],
    receive: Callable[[ContainerEvent], None],
    ended: asyncio.Future[None],
) -> None:
    """In a thread of its own: the SDK's stream blocks. A stream that breaks is one that ends."""

    def set_ended() -> None:
        if not ended.done():
            ended.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
        try:
            for event in events:
                loop.call_soon_threadsafe(receive, event)
        except Exception as error:
            _log.debug("the Docker engine's events broke off: %s", error)
        loop.call_soon_threadsafe(set_ended)


async def _nobody(record: SessionRecord) -> None:
    raise AssertionError(f"nobody can end session {record.name}")
