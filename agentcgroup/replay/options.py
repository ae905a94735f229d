# SPDX-License-Identifier: Apache-2.0
"""What a replay is asked for. Bytes and seconds as the names say; no I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ..errors import InvalidValueError
from ..trace.jobs import DeclaredIntent, Granularity
from ..types.intents import Priority
from ..types.sessions import Mode

__all__ = ["DeclaredIntent", "Granularity", "Policy", "ReplayOptions", "spread_priorities"]


class Policy(StrEnum):
    """Who divides the memory.

    none: one limit around all. static: memory.max = total/n each. static-peak and
    static-mean: memory.max = the session's own peak or mean, and a session waits until
    its share is free. alone: each session by itself. agentcgroup: a live daemon.
    """

    NONE = "none"
    STATIC = "static"
    STATIC_PEAK = "static-peak"
    STATIC_MEAN = "static-mean"
    AGENTCGROUP = "agentcgroup"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """`socket`: use this daemon instead of a private one. `root`: the cgroup below which
    a private tree is made. `layers` and `mode` go to the private daemon, which must have the
    scheduler if `sched_ext` is among them. `cpu_weights`: of high, normal and low sessions
    where no daemon gives them (a floor to compare with)."""

    total_memory_bytes: int
    speed: float = 50.0
    base_memory_bytes: int = 100 << 20
    granularity: Granularity = Granularity.SESSION
    intent: DeclaredIntent = DeclaredIntent.NONE
    layers: str = "auto"
    mode: Mode = Mode.ENFORCE
    seed: int = 0
    socket: str | None = None
    root: str = "/sys/fs/cgroup"
    sample_ms: int = 50
    cpu_weights: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.speed <= 10_000:
            raise InvalidValueError("--speed", self.speed, "write a factor above 0, such as 10")
        if self.total_memory_bytes < 16 << 20:
            raise InvalidValueError(
                "--total-memory", self.total_memory_bytes, "replaying needs at least 16M"
            )

    def layer_settings(self) -> dict[str, str | bool]:
        """The private daemon's configuration."""
        named = [name.strip() for name in self.layers.split(",")]
        memory = [name for name in named if name != "sched_ext"] or ["auto"]
        settings: dict[str, str | bool] = {"memory_layers": ",".join(memory)}
        if "sched_ext" in named:
            settings |= {"cpu_layer": "sched_ext", "cpu_require": True}
        return settings


def spread_priorities(text: str, count: int) -> list[Priority]:
    """One priority a session from "high,low,low"; the last one repeats."""
    given: Sequence[str] = [part.strip() for part in text.split(",")]
    try:
        known = [Priority(part) for part in given]
    except ValueError:
        raise InvalidValueError(
            "--priority", text, "write high, normal or low for each trace, such as high,low,low"
        ) from None
    if len(known) > count:
        raise InvalidValueError(
            "--priority", text, f"there are {count} traces: name at most {count} priorities"
        )
    return known + [known[-1]] * (count - len(known))
