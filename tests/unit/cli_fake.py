# SPDX-License-Identifier: Apache-2.0
"""What tests of the command line share besides their fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from client_fake_daemon import FakeDaemon

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


def answer(daemon: FakeDaemon, method: str, result: dict[str, Any]) -> None:
    daemon.handlers[method] = lambda _params, _fd: result
