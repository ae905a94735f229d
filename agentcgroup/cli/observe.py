# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe …`: independent instruments, for a person who wants to be sure."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidValueError, NotSupportedError
from ..units import parse_duration_s
from .output import JsonOption, figure, print_json, print_table

if TYPE_CHECKING:
    from ..bpf.latency import Latency

__all__ = ["app"]

app = typer.Typer(
    name="observe",
    help="Independent instruments on BCC: what the kernel does to sessions.",
    no_args_is_help=True,
)

_LOOK_S = 0.25
_TOLD = {
    "fault": "page fault, as the task sees it (handle_mm_fault)",
    "charge": "charge to its cgroups, part of a fault (try_charge_memcg)",
    "over_high": "reclaim and sleep over its grant, after the fault (mem_cgroup_handle_over_high)",
}


@app.callback()
def _family() -> None:
    """So that one instrument alone is still a command of the family."""


@app.command("alloclat")
def alloclat(
    session: Annotated[str | None, typer.Option(help="Only this session; ends with it.")] = None,
    duration: Annotated[
        str | None, typer.Option(help="Stop after this long, such as 30s; default: Ctrl-C.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How long page faults and memory charges take in sessions. Needs root, BCC, headers."""
    from ..bpf.alloclat import AllocationLatency, load_bcc  # noqa: PLC0415  (quick --help)
    from ..client import Client  # noqa: PLC0415

    limit_s = None if duration is None else parse_duration_s(duration, "--duration")
    root = Path(str(Client().status()["root"]))
    if session is not None and not (root / session).is_dir():
        raise InvalidValueError("--session", session, "name a session: agentcgroup session list")
    names = SessionNames(root, session)
    bcc = load_bcc()
    with AllocationLatency(bcc, root.stat().st_ino, _level(root)) as instrument:
        began_s = time.monotonic()
        typer.echo("Measuring; Ctrl-C prints the result.", err=True)
        _wait(names, limit_s)
        measured_s, found = time.monotonic() - began_s, instrument.read()
    sessions = names.named(found)
    if as_json:
        functions = {name: instrument.functions.get(name) for name in _TOLD}
        print_json(
            {"duration_s": round(measured_s, 3), "functions": functions, "sessions": sessions}
        )
    else:
        _print(sessions, measured_s)


class SessionNames:
    """Which session has which cgroup id. Those that ended while it looked on stay known."""

    def __init__(self, root: Path, only: str | None) -> None:
        self._root = root
        self._only = only
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
        """What was measured, in milliseconds, for sessions whose name is known."""
        return [
            {
                "session": name,
                **{
                    f"{operation}_ms": latencies[operation].in_ms()
                    for operation in _TOLD
                    if operation in latencies
                },
            }
            for cgroup_id, name in sorted(self._names.items(), key=lambda item: item[1])
            if (latencies := found.get(cgroup_id)) is not None
        ]


def _level(root: Path) -> int:
    """How deep the tree is below the cgroup mount."""
    from ..cgroupfs import proc  # noqa: PLC0415

    mount = Path(proc.cgroup2_mount_point() or "/")
    if not root.is_relative_to(mount):
        raise NotSupportedError(f"{root} is not below {mount}: run it where the daemon runs")
    return len(root.relative_to(mount).parts)


def _wait(names: SessionNames, limit_s: float | None) -> None:
    """Until the time is up, the session has ended, or somebody interrupts."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    until_s = None if limit_s is None else time.monotonic() + limit_s
    try:
        while not names.ended and (until_s is None or time.monotonic() < until_s):
            left_s = _LOOK_S if until_s is None else until_s - time.monotonic()
            time.sleep(max(0.0, min(_LOOK_S, left_s)))
            names.look()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print(sessions: list[dict[str, Any]], measured_s: float) -> None:
    typer.echo(f"{figure('_s', measured_s)}, {len(sessions)} sessions")
    print_table(
        ("session", "what", "count", "p50", "p95", "p99", "max", "total"),
        (
            (record["session"], name, told["count"],
             *(figure("_ms", told[part]) for part in ("p50", "p95", "p99", "max", "total")))
            for record in sessions
            for name in _TOLD
            if (told := record.get(f"{name}_ms")) is not None
        ),
    )  # fmt: skip
    for name, meaning in _TOLD.items():
        typer.echo(f"{name}: {meaning}")
