# SPDX-License-Identifier: Apache-2.0
"""One run: all sessions of a set of traces, together, under one policy.

Everything that is started is ended and every cgroup removed, also after an error or
an interrupt. The sessions start at a common instant; `alone` is one such run for each
session by itself.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from ..cgroupfs import files
from ..cgroupfs.handle import Cgroup
from ..trace.jobs import SessionJob
from ..trace.results import RunResult, SessionResult
from .managed import ManagedHost
from .observe import Observer
from .options import Policy, ReplayOptions
from .places import Place, PlainPlace, Shares
from .player import SessionPlayer
from .tree import PrivateTree, open_root

__all__ = ["Progress", "run_policy"]

Progress = Callable[[float], None]
"""Told the finished share of the run, 0 to 1, now and then."""

_POLL_S = 0.05
# Starting a Python process takes 0.3 s on an emulated CPU.
_LEAD_S = 0.5
_LEAD_PER_SESSION_S = 0.4
# Sessions that wait for each other may take the sum of all; throttled ones longer.
_PATIENCE_S = 60.0
_PATIENCE_FACTOR = 6.0
_numbers = count(1)


def run_policy(
    policy: Policy,
    jobs: Sequence[SessionJob],
    options: ReplayOptions,
    *,
    run: int = 1,
    progress: Progress = lambda share: None,
) -> RunResult:
    """Play `jobs` under `policy`; errors of the host are raised, losses are results."""
    sessions: list[SessionResult] = []
    layers: set[str] = set()
    groups = [[job] for job in jobs] if policy is Policy.ALONE else [list(jobs)]
    with open_root(options.root) as root:
        for index, group in enumerate(groups):

            def share(part: float, done: int = index) -> None:
                progress((done + part) / len(groups))

            players = _play_group(policy, group, options, root, share)
            sessions += [player.result for player in players]
            layers |= {layer for player in players for layer in player.layers}
    if not layers:
        layers = {"files"} if policy is not Policy.AGENTCGROUP else set()
    return RunResult(
        run=run,
        policy=policy.value,
        layers=sorted(layers),
        seed=options.seed,
        sessions=sessions,
        settings={
            "granularity": options.granularity.value,
            "intent": options.intent.value,
            "mode": options.mode.value,
            "total_memory_bytes": options.total_memory_bytes,
            "base_memory_bytes": options.base_memory_bytes,
            "speed": options.speed,
        },
    )


def _play_group(
    policy: Policy,
    jobs: list[SessionJob],
    options: ReplayOptions,
    root: Cgroup,
    progress: Progress,
) -> list[SessionPlayer]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentcgroup-")))
        name = f"agentcgroup-replay-{os.getpid()}-{next(_numbers)}"
        tree = PrivateTree(root, name, options.total_memory_bytes)
        places, shares, kill = _places(policy, jobs, options, tree, folder, stack)
        lead_s = _LEAD_S + _LEAD_PER_SESSION_S * len(jobs)
        start_ns = time.monotonic_ns() + int(lead_s * 1e9)
        players = [
            SessionPlayer(job, place, speed=options.speed, start_ns=start_ns, folder=folder)
            for job, place in zip(jobs, places, strict=True)
        ]
        watched = {player.job.name: (player.place.cgroup, player.result) for player in players}
        try:
            with Observer(watched, start_ns=start_ns, sample_ms=options.sample_ms):
                for player in players:
                    player.start()
                _wait(players, start_ns, _patience_s(jobs, options), kill, progress)
        except BaseException:
            for player in players:
                player.cancel()
            if shares is not None:
                shares.close()
            kill()
            for player in players:
                if player.ident is not None:
                    player.join(10)
            raise
    for player in players:
        if player.error is not None:
            raise player.error
    return players


def _places(
    policy: Policy,
    jobs: list[SessionJob],
    options: ReplayOptions,
    tree: PrivateTree,
    folder: Path,
    stack: ExitStack,
) -> tuple[list[Place], Shares | None, Callable[[], None]]:
    """A place for every job, what they share, and how to kill all of them."""
    if policy is Policy.AGENTCGROUP:
        if options.socket is None:
            stack.enter_context(tree)
        host = stack.enter_context(
            ManagedHost(options, None if options.socket else tree.cgroup, folder)
        )
        return [host.place(job) for job in jobs], None, host.kill
    stack.enter_context(tree)
    shares = Shares(options.total_memory_bytes)
    places: list[Place] = []
    for job in jobs:
        limit = _limit_bytes(policy, job, options.total_memory_bytes, len(jobs))
        waits = shares if policy in (Policy.STATIC_PEAK, Policy.STATIC_MEAN) else None
        cgroup = stack.enter_context(tree.session(job.name, limit))
        if options.cpu_weights is not None:
            cgroup.write(files.CPU_WEIGHT, str(options.cpu_weights[job.priority.rank]))
        places.append(PlainPlace(cgroup, time.monotonic_ns, waits, limit or 0))
    return places, shares, tree.kill


def _limit_bytes(policy: Policy, job: SessionJob, total_bytes: int, n: int) -> int | None:
    if policy is Policy.STATIC:
        return total_bytes // n
    if policy is Policy.STATIC_PEAK:
        return min(job.need_bytes, total_bytes)
    if policy is Policy.STATIC_MEAN:
        return min(job.mean_need_bytes, total_bytes)
    return None


def _patience_s(jobs: Sequence[SessionJob], options: ReplayOptions) -> float:
    total_s = sum(job.trace.duration_s for job in jobs) / options.speed
    calls = sum(len(job.calls) for job in jobs)
    return _PATIENCE_S + _PATIENCE_FACTOR * total_s + 2.0 * calls


def _wait(
    players: list[SessionPlayer],
    start_ns: int,
    patience_s: float,
    kill: Callable[[], None],
    progress: Progress,
) -> None:
    expected_s = max(player.expected_s for player in players)
    while any(player.is_alive() for player in players):
        time.sleep(_POLL_S)
        elapsed_s = (time.monotonic_ns() - start_ns) / 1e9
        progress(min(0.99, max(0.0, elapsed_s / expected_s)))
        if elapsed_s > patience_s:
            for player in players:
                if player.is_alive():
                    player.result.timed_out = True
                    player.cancel()
            kill()
    progress(1.0)
