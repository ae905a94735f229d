# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe …`: independent instruments, for a person who wants to be sure."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidValueError, NotSupportedError
from ..units import parse_duration_s
from .output import JsonOption, figure, print_json, print_table

if TYPE_CHECKING:
    from ..bpf.instrument import Instrument
    from ..bpf.latency import Latency

__all__ = ["app"]

app = typer.Typer(
    name="observe",
    help="Independent instruments on BCC: what the kernel does to sessions.",
    no_args_is_help=True,
)

_SessionOption = Annotated[
    str | None, typer.Option("--session", help="Only this session; ends with it.")
]
_DurationOption = Annotated[
    str | None,
    typer.Option("--duration", help="Stop after this long, such as 30s; default: Ctrl-C."),
]
_LOOK_S = 0.25
_FIGURES = ("p50", "p95", "p99", "max", "total")
_ALLOCLAT = {
    "fault": "page fault, as the task sees it (handle_mm_fault)",
    "charge": "charge to its cgroups, part of a fault (try_charge_memcg)",
    "over_high": "reclaim and sleep over its grant, after the fault (mem_cgroup_handle_over_high)",
}
_RUNQLAT = {"runqlat": "wait for a CPU, from runnable to running"}
_OUTSIDE = "(outside)"


@app.command("alloclat")
def alloclat(
    session: _SessionOption = None, duration: _DurationOption = None, as_json: JsonOption = False
) -> None:
    """How long page faults and memory charges take in sessions. Needs root, BCC, headers."""
    from ..bpf.alloclat import AllocationLatency  # noqa: PLC0415  (quick --help)

    measured = _measure(AllocationLatency, session, duration)
    _show(measured, _ALLOCLAT, as_json)


@app.command("runqlat")
def runqlat(
    session: _SessionOption = None, duration: _DurationOption = None, as_json: JsonOption = False
) -> None:
    """How long tasks wait for a CPU, in sessions and outside. Needs root, BCC, headers."""
    from ..bpf.runqlat import IN_NO_SESSION, RunQueueLatency  # noqa: PLC0415

    measured = _measure(RunQueueLatency, session, duration, {IN_NO_SESSION: _OUTSIDE})
    _show(measured, _RUNQLAT, as_json)


@dataclass(frozen=True, slots=True)
class Measured:
    """What an instrument found, by session, in milliseconds."""

    duration_s: float
    about: Mapping[str, Any]
    lost_count: int
    sessions: Sequence[Mapping[str, Any]]


class SessionNames:
    """Which session has which cgroup id. Those that ended while it looked on stay known."""

    def __init__(self, root: Path, only: str | None, others: Mapping[int, str]) -> None:
        self._root = root
        self._only = only
        self._others = others if only is None else {}
        self._names: dict[int, str] = {}
        self.look()

    def look(self) -> None:
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.is_dir() and self._only in (None, entry.name):
                    self._names[entry.inode()] = entry.name

    @property
    def ended(self) -> bool:
        """The only session that is looked at is gone."""
        return self._only is not None and not (self._root / self._only).is_dir()

    def named(self, found: Mapping[int, Mapping[str, Latency]]) -> list[dict[str, Any]]:
        """In milliseconds, for sessions whose name is known, the others at the end."""
        sessions = sorted(self._names.items(), key=lambda item: item[1])
        return [
            {
                "session": name,
                **{f"{operation}_ms": latency.in_ms() for operation, latency in latencies.items()},
            }
            for cgroup_id, name in (*sessions, *self._others.items())
            if (latencies := found.get(cgroup_id)) is not None
        ]


def _measure(
    instrument_of: Callable[[Any, int, int], Instrument],
    session: str | None,
    duration: str | None,
    others: Mapping[int, str] = MappingProxyType({}),
) -> Measured:
    """Until the time is up, the session has ended, or somebody interrupts.

    `others`: rows besides the sessions', by what the instrument has instead of a cgroup id.
    """
    from ..bpf.instrument import load_bcc  # noqa: PLC0415
    from ..client import Client  # noqa: PLC0415

    limit_s = None if duration is None else parse_duration_s(duration, "--duration")
    root = Path(str(Client().status()["root"]))
    if session is not None and not (root / session).is_dir():
        raise InvalidValueError("--session", session, "name a session: agentcgroup session list")
    names = SessionNames(root, session, others)
    with instrument_of(load_bcc(), root.stat().st_ino, _level(root)) as instrument:
        began_s = time.monotonic()
        typer.echo("Measuring; Ctrl-C prints the result.", err=True)
        _wait(names, instrument, limit_s)
        measured_s, found = time.monotonic() - began_s, instrument.read()
        lost_count = instrument.lost_count()
    return Measured(round(measured_s, 3), instrument.about(), lost_count, names.named(found))


def _level(root: Path) -> int:
    """How deep the tree is below the cgroup mount."""
    from ..cgroupfs import proc  # noqa: PLC0415

    mount = Path(proc.cgroup2_mount_point() or "/")
    if not root.is_relative_to(mount):
        raise NotSupportedError(f"{root} is not below {mount}: run it where the daemon runs")
    return len(root.relative_to(mount).parts)


def _wait(names: SessionNames, instrument: Instrument, limit_s: float | None) -> None:
    before = signal.signal(signal.SIGTERM, _interrupt)
    until_s = None if limit_s is None else time.monotonic() + limit_s
    try:
        while not names.ended and (until_s is None or time.monotonic() < until_s):
            left_s = _LOOK_S if until_s is None else until_s - time.monotonic()
            time.sleep(max(0.0, min(_LOOK_S, left_s)))
            names.look()
            instrument.look()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(measured: Measured, meanings: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "duration_s": measured.duration_s,
                **measured.about,
                "lost": measured.lost_count,
                "sessions": measured.sessions,
            }
        )
    else:
        _print(measured, meanings)
    if measured.lost_count:
        typer.echo(
            f"agentcgroup: {measured.lost_count} durations are missing: the instrument's tables"
            " were full; measure for a shorter time or with fewer sessions",
            err=True,
        )


def _print(measured: Measured, meanings: Mapping[str, str]) -> None:
    sessions = sum(record["session"] != _OUTSIDE for record in measured.sessions)
    told = [f"{name} {text}" for name, text in measured.about.items() if isinstance(text, str)]
    typer.echo(", ".join([figure("_s", measured.duration_s), f"{sessions} sessions", *told]))
    several = len(meanings) > 1
    print_table(
        ("session", *(["what"] if several else []), "count", *_FIGURES),
        (
            (record["session"], *([name] if several else []), latency["count"],
             *(figure("_ms", latency[part]) for part in _FIGURES))
            for record in measured.sessions
            for name in meanings
            if (latency := record.get(f"{name}_ms")) is not None
        ),
    )  # fmt: skip
    for name, meaning in meanings.items():
        typer.echo(f"{name}: {meaning}")
