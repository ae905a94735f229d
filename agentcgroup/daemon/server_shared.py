# SPDX-License-Identifier: Apache-2.0
"""What all connections of one server have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from .connection_closer import ForeignCloser
from .identity import Registry
from .server_limits import ServerLimits
from .server_request import RequestContext

__all__ = ["Counters", "Shared"]

RECEIVE_BYTES = 65536


@dataclass(slots=True)
class Counters:
    """Since the start; every odd path has one, so that nothing rare is silent."""

    accepted: int = 0
    refused_connections: int = 0
    requests: int = 0
    refused_requests: int = 0
    failed_requests: int = 0
    bad_descriptors: int = 0
    slow_readers: int = 0
    dropped_events: int = 0


@dataclass(slots=True)
class Shared:
    """`start` runs the handler; its task may be done at once. `scratch` is read into."""

    loop: asyncio.AbstractEventLoop
    limits: ServerLimits
    registry: Registry
    start: Callable[[RequestContext], asyncio.Task[str]]
    closer: ForeignCloser = field(default_factory=ForeignCloser)
    counters: Counters = field(default_factory=Counters)
    scratch: bytearray = field(default_factory=lambda: bytearray(RECEIVE_BYTES))
