# SPDX-License-Identifier: Apache-2.0
"""What a Docker engine says of its containers. Looks only: nothing is started or stopped here.

Every method waits for the engine: call it off the event loop. The `docker` SDK is of the extra
`host` and is imported with the first use.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidValueError, NotSupportedError
from .labels import LabelFilter

__all__ = ["DEFAULT_HOST", "Container", "ContainerEvent", "Engine"]

DEFAULT_HOST = "unix:///var/run/docker.sock"
_TIMEOUT_S = 10
_LIFE = ("start", "restart", "update", "pause", "unpause", "die", "destroy")
_V2 = "2"


class _Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _State(_Foreign):
    running: bool = Field(alias="Running")
    paused: bool = Field(default=False, alias="Paused")
    pid: int = Field(alias="Pid")


class _Config(_Foreign):
    labels: dict[str, str] | None = Field(default=None, alias="Labels")


class Container(_Foreign):
    """As `docker inspect` tells it, as far as it matters here."""

    id: str = Field(alias="Id", min_length=12)
    path: str = Field(alias="Name")
    state: _State = Field(alias="State")
    config: _Config = Field(alias="Config")

    @property
    def name(self) -> str:
        return self.path.lstrip("/")

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    @property
    def pid(self) -> int:
        """Its init, in the host's pid namespace; 0 while it does not run."""
        return self.state.pid

    def cgroup_of(self, path: str) -> str:
        """The container's own cgroup, when its init stands in `path`: the one with its id.

        The drivers call it <id> (cgroupfs) and docker-<id>.scope (systemd).
        """
        parts = path.split("/")
        for depth, part in enumerate(parts):
            if self.id in part:
                return "/".join(parts[: depth + 1])
        return path


class _Actor(_Foreign):
    id: str = Field(alias="ID")


class ContainerEvent(_Foreign):
    """`action` is one of start, restart, update, pause, unpause, die, destroy."""

    action: str = Field(alias="Action")
    actor: _Actor = Field(alias="Actor")


class Engine:
    """One engine. Raises NotSupportedError where it can't be asked."""

    def __init__(self, host: str = DEFAULT_HOST) -> None:
        self._host = host
        self._api: Any = None
        self._stream: Any = None

    def connect(self) -> None:
        """Raises NotSupportedError: no SDK, nobody answers, or not cgroup v2."""
        if self._api is not None:
            return
        try:
            import docker  # noqa: PLC0415  (of an extra, and slow)
        except ImportError:
            raise NotSupportedError(
                "the docker SDK is not installed: pip install 'agentcgroup[host]'"
            ) from None
        try:
            api = docker.APIClient(base_url=self._host, version="auto", timeout=_TIMEOUT_S)
            version = str(api.info().get("CgroupVersion", ""))
        except (docker.errors.DockerException, OSError) as error:
            raise NotSupportedError(f"no Docker engine answers at {self._host}: {error}") from None
        if version != _V2:
            api.close()
            raise NotSupportedError(
                f"the Docker engine at {self._host} uses cgroup v{version or '?'}:"
                " boot with systemd.unified_cgroup_hierarchy=1"
            )
        self._api = api

    def get(self, name: str) -> Container:
        """By name or id (also a part of it). InvalidValueError if there is none."""
        import docker  # noqa: PLC0415

        self.connect()
        try:
            found = self._api.inspect_container(name)
        except docker.errors.NotFound:
            raise InvalidValueError(
                "container", name, "there is no such container; see: docker ps --all"
            ) from None
        except (docker.errors.DockerException, OSError) as error:
            self._lost()
            raise NotSupportedError(f"the Docker engine does not answer: {error}") from None
        return _parse(found)

    def running(self, label: LabelFilter | None = None) -> list[Container]:
        """Those that run (or are paused), by name."""
        import docker  # noqa: PLC0415

        self.connect()
        filters = {"label": [str(label)]} if label is not None else {}
        try:
            listed = self._api.containers(filters=filters)
        except (docker.errors.DockerException, OSError) as error:
            self._lost()
            raise NotSupportedError(f"the Docker engine does not answer: {error}") from None
        found = []
        for entry in listed:
            with contextlib.suppress(InvalidValueError):  # gone since
                found.append(self.get(entry["Id"]))
        return sorted(found, key=lambda container: container.name)

    def events(self) -> Iterator[ContainerEvent]:
        """Of the lives of all containers, until the engine ends or `close` is called.

        The engine is listening when this returns: what is listed afterwards misses nothing.
        """
        self.connect()
        self._stream = self._api.events(
            decode=True, filters={"type": "container", "event": list(_LIFE)}
        )
        return self._events(self._stream)

    def close(self) -> None:
        """Ends `events` in another thread, too."""
        stream, self._stream = self._stream, None
        if stream is not None:
            # It may be at its end already, or the engine gone.
            with contextlib.suppress(Exception):
                stream.close()
        self._lost()

    @staticmethod
    def _events(stream: Any) -> Iterator[ContainerEvent]:
        for raw in stream:
            with contextlib.suppress(ValidationError):
                event = ContainerEvent.model_validate(raw)
                if event.action in _LIFE:
                    yield event

    def _lost(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            api.close()


def _parse(found: Any) -> Container:
    try:
        return Container.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = json.dumps(found, default=str)[:64]
        raise NotSupportedError(
            f"the Docker engine describes a container without {where}: {shown}"
        ) from None
