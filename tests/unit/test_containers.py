# SPDX-License-Identifier: Apache-2.0
"""Containers as sessions, with an engine that says what the test wants, on the in-memory tree.

The containers' inits are real processes, for pidfds; where they stand is told by the test.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from agentcgroup.cgroupfs import files
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.clock import MonotonicClock
from agentcgroup.daemon import containers as module
from agentcgroup.daemon.config import BoundaryConfig, DockerConfig, SessionDefaults
from agentcgroup.daemon.containers import Containers
from agentcgroup.daemon.core import Core
from agentcgroup.daemon.decisions import Decisions
from agentcgroup.daemon.places import Places
from agentcgroup.daemon.records import SessionRecord
from agentcgroup.daemon.sessions import Sessions
from agentcgroup.errors import InvalidValueError, NotSupportedError
from agentcgroup.policy.state import PolicyConfig
from agentcgroup.protocol.errors import ProtocolError
from agentcgroup.sandbox.docker import Container, ContainerEvent
from agentcgroup.sandbox.labels import LabelFilter
from agentcgroup.types.sessions import Mode
from agentcgroup.units import MIB

ID = "0123456789ab" * 5
PATIENCE_S = 10.0


class FakeEngine:
    """Both of the daemon's engines; `sent` makes the listening one hear events."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.broken = ""
        self._event = threading.Condition()
        self._queue: list[ContainerEvent | None] = []
        self.listening = 0

    def __call__(self, _host: str) -> FakeEngine:
        return self

    def get(self, name: str) -> Container:
        self._check()
        for container in self.containers.values():
            if name in (container.id, container.name):
                return container
        raise InvalidValueError("container", name, "there is no such container")

    def running(self, label: LabelFilter | None = None) -> list[Container]:
        self._check()
        return [c for c in self.containers.values()
                if c.state.running and (label is None or label.matches(c.labels))]  # fmt: skip

    def events(self) -> Iterator[ContainerEvent]:
        self._check()
        self.listening += 1
        return self._heard()

    def _heard(self) -> Iterator[ContainerEvent]:
        while True:
            with self._event:
                while not self._queue:
                    self._event.wait()
                event = self._queue.pop(0)
            if event is None:
                return
            yield event

    def sent(self, *actions: str, container_id: str = ID) -> None:
        events = [
            ContainerEvent.model_validate({"Action": action, "Actor": {"ID": container_id}})
            for action in actions
        ]
        with self._event:
            self._queue.extend(events)
            self._event.notify()

    def hang_up(self) -> None:
        with self._event:
            self._queue.append(None)
            self._event.notify()

    def close(self) -> None:
        self.hang_up()

    def _check(self) -> None:
        if self.broken:
            raise NotSupportedError(self.broken)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, init: int, adopt: str = "") -> None:
        self.init = init
        self.kernel = FakeKernel()
        self.root = FakeCgroup.delegated(self.kernel)
        self.root.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
        self.docker = FakeCgroup.root(self.kernel).create("docker")
        self.docker.write(files.CGROUP_SUBTREE_CONTROL, "+memory +cpu +pids +io")
        self.engine = FakeEngine()
        monkeypatch.setattr(module, "Engine", self.engine)
        monkeypatch.setattr(module.proc, "cgroup_path", lambda _pid: f"/docker/{ID}")
        monkeypatch.setattr(module.proc, "cgroup2_mount_point", lambda: "/sys/fs/cgroup")
        self.told: list[dict[str, Any]] = []
        self.config = DockerConfig(adopt=adopt)
        self.live()

    def live(self) -> None:
        """A daemon; called again, its successor, with nothing but the tree."""
        self.core = Core(1024 * MIB, PolicyConfig(), MonotonicClock(), Decisions())
        self.core.decisions.subscribe(1, self.told.append)
        places = Places(self.core, "/agentcgroup")
        self.sessions = Sessions(
            self.core,
            self.root,
            SessionDefaults(),
            Mode.ENFORCE,
            self.open,
            places,
            BoundaryConfig(),
        )
        self.watched: list[str] = []
        self.containers = Containers(
            self.core, self.root, self.sessions, self.config, self.open,
            lambda record: self.watched.append(record.name),
        )  # fmt: skip
        self.containers.end_session = self.end

    async def end(self, record: SessionRecord) -> None:
        await self.sessions.end(record)

    def open(self, path: str) -> FakeCgroup:
        cgroup = FakeCgroup.root(self.kernel)
        for part in path.removeprefix(cgroup.path).strip("/").split("/"):
            cgroup = cgroup.child(part)
        return cgroup

    def started(self, name: str = "box", **labels: str) -> None:
        """By somebody else: a new cgroup with a process in it."""
        if ID not in self.docker.children():
            self.kernel.spawn(self.docker.create(ID).node)
        self.engine.containers[name] = self.container(name, labels, running=True)

    def stopped(self, name: str = "box") -> None:
        box = self.docker.child(ID)
        box.kill()
        box.remove_tree()
        known = self.engine.containers[name]
        self.engine.containers[name] = self.container(name, known.labels, running=False)

    def container(self, name: str, labels: dict[str, str], *, running: bool) -> Container:
        return Container.model_validate({
            "Id": ID, "Name": f"/{name}", "Config": {"Labels": labels},
            "State": {"Running": running, "Paused": False, "Pid": self.init if running else 0},
        })  # fmt: skip

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    def names(self) -> list[str]:
        return sorted(self.core.sessions)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    with subprocess.Popen(["sleep", "600"]) as init:

        def run(story: Callable[[World], Coroutine[Any, Any, None]], adopt: str = "") -> None:
            async def told() -> None:
                made = World(monkeypatch, init.pid, adopt)
                # The init that docker tells is real and in no cgroup of this tree.
                monkeypatch.setattr("agentcgroup.daemon.sessions.checked_agent", lambda *_: None)
                monkeypatch.setattr(Sessions, "_check_place", lambda *_: None)
                try:
                    await story(made)
                finally:
                    await made.containers.stop()
                    made.core.close()

            asyncio.run(told())

        yield run
        init.kill()


def test_attached_it_is_divided_again_after_every_restart(world: Any) -> None:
    async def story(w: World) -> None:
        w.started(**{"agentcgroup.priority": "high", "agentcgroup.memory": "128M"})
        record = await w.containers.attach("box", {"memory": 256 * MIB}, None)
        assert (record.name, record.container, record.spec.priority) == ("box", ID, "high")
        assert record.spec.memory == 256 * MIB and w.watched == ["box"]
        await w.until(lambda: w.engine.listening)
        for _ in range(2):
            w.stopped()
            w.engine.sent("die")
            await w.until(lambda: w.names() == [])
            w.started(**{"agentcgroup.priority": "low"})
            w.engine.sent("start", "restart")
            await w.until(lambda: w.names() == ["box"])
            assert w.core.sessions["box"].spec.memory == 256 * MIB
            assert w.docker.child(ID).children() == ["agent", "tools"]
        # A restart whose every event was lost: the cgroup is another.
        w.stopped()
        w.started()
        w.engine.hang_up()
        await w.until(lambda: w.engine.listening == 2 and w.core.sessions["box"].cgroup.exists())

    world(story)


def test_detached_it_stays_so_until_attached_again(world: Any) -> None:
    async def story(w: World) -> None:
        w.started(adopt="yes")
        w.containers.start()
        await w.until(lambda: w.names() == ["box"])
        record = w.core.sessions["box"]
        await w.sessions.detach(record)
        w.containers.detached(record)
        w.engine.sent("pause", "start")
        await asyncio.sleep(0.1)
        assert w.names() == []
        await w.containers.attach("box", {}, None)
        assert w.names() == ["box"]
        # Removed, nothing of it is kept.
        w.stopped()
        w.engine.containers.clear()
        w.engine.sent("die", "destroy")
        await w.until(lambda: w.root.list_xattrs() == [])

    world(story, adopt="adopt")


def test_labels_that_cannot_be_used_are_told_and_ignored(world: Any) -> None:
    async def story(w: World) -> None:
        w.started(**{
            "adopt": "yes", "agentcgroup.memory": "2G", "agentcgroup.cpu": "lots",
            "agentcgroup.priority": "low", "agentcgroup.name": "agent",
        })  # fmt: skip
        w.containers.start()
        await w.until(lambda: w.names() == ["box"])
        assert w.core.sessions["box"].spec.priority == "low"
        (told,) = [body for body in w.told if body.get("event") == "labels_ignored"]
        assert told["session"] == "box"
        assert [line.partition("=")[0] for line in told["labels"]] == [
            "agentcgroup.cpu", "agentcgroup.name", "agentcgroup.memory",
        ]  # fmt: skip

    world(story, adopt="adopt=yes")


def test_a_successor_takes_over_what_was_attached_by_hand(world: Any) -> None:
    async def story(w: World) -> None:
        w.started()
        await w.containers.attach("box", {"memory": 64 * MIB}, None)
        await w.containers.stop()
        w.core.close()
        w.stopped()  # while nobody looked
        w.live()
        w.containers.start()
        await w.until(lambda: w.engine.listening == 2)
        w.started()
        w.engine.sent("start")
        await w.until(lambda: w.names() == ["box"])
        assert w.core.sessions["box"].spec.memory == 64 * MIB

    world(story)


def test_pauses_are_seen(world: Any) -> None:
    async def story(w: World) -> None:
        w.started()
        record = await w.containers.attach("box", {}, None)
        await w.until(lambda: w.engine.listening)
        for paused in (True, False):
            state = {"Running": True, "Paused": paused, "Pid": w.init}
            known = w.engine.containers["box"].model_dump(by_alias=True)
            w.engine.containers["box"] = Container.model_validate({**known, "State": state})
            w.engine.sent("pause" if paused else "unpause")
            await w.until(lambda wanted=paused: record.paused is wanted)
        assert [b["event"] for b in w.told if "container" in b][-2:] == ["pause", "unpause"]

    world(story)


def test_what_is_refused(world: Any) -> None:
    async def story(w: World) -> None:
        with pytest.raises(InvalidValueError, match="no such container"):
            await w.containers.attach("box", {}, None)
        w.started()
        w.stopped()
        with pytest.raises(ProtocolError, match="does not run"):
            await w.containers.attach("box", {}, None)
        w.started()
        with pytest.raises(InvalidValueError, match="the host's budget"):
            await w.containers.attach("box", {"memory": 1 << 50}, None)
        with pytest.raises(InvalidValueError, match="unless the kind is outside"):
            await w.containers.attach("box", {}, 0)
        assert w.docker.child(ID).children() == [] and w.root.list_xattrs() == []
        await w.containers.attach("box", {}, None)
        with pytest.raises(ProtocolError, match="is session 'box' already"):
            await w.containers.attach("box", {}, None)
        w.engine.broken = "no engine answers"
        with pytest.raises(ProtocolError, match="no engine answers") as caught:
            await w.containers.attach("other", {}, None)
        assert caught.value.kind == "not_supported"

    world(story)


def test_an_engine_that_is_away_is_asked_again(world: Any) -> None:
    async def story(w: World) -> None:
        w.engine.broken = "no engine answers"
        w.containers.start()
        await asyncio.sleep(0.1)
        w.started(adopt="")
        w.engine.broken = ""
        await w.until(lambda: w.names() == ["box"])

    world(story, adopt="adopt")


def test_a_cgroup_that_cannot_be_divided_is_told_of(world: Any) -> None:
    async def story(w: World) -> None:
        w.started(adopt="")
        w.docker.child(ID).create("init.scope")
        w.containers.start()
        await w.until(lambda: any(body.get("event") == "refused" for body in w.told))
        assert w.names() == []

    world(story, adopt="adopt")


def test_nobody_listens_without_a_reason(world: Any) -> None:
    async def story(w: World) -> None:
        w.containers.start()
        await asyncio.sleep(0.05)
        assert w.engine.listening == 0

    world(story)


@pytest.mark.parametrize(
    ("init", "own"),
    [
        (f"/docker/{ID}", f"/docker/{ID}"),
        (f"/docker/{ID}/init.scope", f"/docker/{ID}"),
        (f"/system.slice/docker-{ID}.scope", f"/system.slice/docker-{ID}.scope"),
        (f"/a.slice/a-b.slice/docker-{ID}.scope/agent", f"/a.slice/a-b.slice/docker-{ID}.scope"),
        ("/elsewhere", "/elsewhere"),
    ],
)  # fmt: skip
def test_which_cgroup_is_the_containers(init: str, own: str) -> None:
    container = Container.model_validate({
        "Id": ID, "Name": "/x", "Config": {"Labels": None},
        "State": {"Running": True, "Pid": 1},
    })  # fmt: skip
    assert container.cgroup_of(init) == own
    assert container.labels == {}
