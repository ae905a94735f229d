# SPDX-License-Identifier: Apache-2.0
"""The memory gate: how soon pressure on a call has an effect on one of a lower priority.

Runs inside a guest with sched_ext. A call of normal priority rests, then grows through
memory.high, beside a busy one of low priority (a high one would get its memory ahead and never
meet its line). Pressure is the kernel's own time of its first `high` event after that. Effect, in
one run:

    gate      our scheduler with its gate: the low call's tasks are parked
    events    the daemon without it: the call is beyond its line, as reaction.py has it

    python gate.py [--rounds 30]

Prints one JSON object: p50 and p95 of both in ms, and events over gate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import PrivateDaemon, until  # noqa: E402
from reaction import LINE_BYTES, Hog, Watcher, hog_argv, leaf_of, quantiles  # noqa: E402
from sched_harness import maps_of, pinned  # noqa: E402

from agentcgroup.bpf.sched_maps import SchedulerMaps  # noqa: E402
from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.types.intents import Intent  # noqa: E402

SPIN = ["sh", "-c", "while :; do :; done"]
# Longer than any gate was closed before.
CALM_S = (0.4, 1.0)
PARKED_WITHIN_S = 1.0


def main() -> None:
    rounds = arguments().rounds
    found: dict[str, list[float | None]] = {"gate": [], "events": []}
    draw = random.Random(0)
    for name, settings in (
        ("gate", {"cpu_layer": "sched_ext", "cpu_require": True}),
        ("events", {"memory_layers": "files,events"}),
    ):
        # One scheduler at a time: rows that interleave would measure its loading.
        with playing(settings, name) as once:
            for _ in range(rounds):
                time.sleep(draw.uniform(*CALM_S))
                found[name].append(once())
    stats = {name: quantiles(values) for name, values in found.items()}
    over = {
        q: stats["events"][q] / stats["gate"][q]
        for q in ("p50_ms", "p95_ms")
        if stats["events"][q] and stats["gate"][q]
    }
    print(json.dumps({"effect": stats, "events_over_gate": over, "raw_ms": found}, indent=1))


@contextlib.contextmanager
def playing(settings: dict[str, Any], name: str) -> Iterator[Callable[[], float | None]]:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(PrivateDaemon(daemon=settings))
        daemon.start()
        for priority in ("normal", "low"):
            daemon.client.create_session(priority, priority=priority)
        watcher = Watcher(daemon.root)
        low = stack.enter_context(Client(str(daemon.socket), require=True).tool_call(session="low"))
        spinner = low.popen(SPIN)
        stack.callback(spinner.wait)
        stack.callback(spinner.kill)
        low_id = leaf_of(spinner.pid).stat().st_ino
        maps = stack.enter_context(maps_of(pinned()[0])) if name == "gate" else None
        client = Client(str(daemon.socket), require=True)
        yield lambda: once(client, watcher, maps, low_id)


def once(client: Client, watcher: Watcher, maps: SchedulerMaps | None, low_id: int) -> float | None:
    """ms from pressure to effect; None: the call never met its line."""
    intent = Intent(memory=LINE_BYTES, memory_max=16 * LINE_BYTES)
    with client.tool_call(intent, session="normal") as call:
        process = call.popen(hog_argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        leaf = leaf_of(process.pid)
        hog = Hog(process, leaf)
        begun_ns = time.monotonic_ns()
        try:
            beyond_ns = hog.grow()
            met_ns = watcher.first_high_ns(leaf.stat().st_ino, begun_ns)
            if met_ns is None:
                return None
            effect_ns = beyond_ns if maps is None else parked_ns(maps, low_id, begun_ns)
            return (effect_ns - met_ns) / 1e6
        finally:
            hog.end()


def parked_ns(maps: SchedulerMaps, low_id: int, after_ns: int) -> int:
    """When the low call was parked: the scheduler's own time."""

    def look() -> int:
        found = maps.figures(low_id)
        parked = found["parked_ns"] if found else 0
        return parked if parked >= after_ns else 0

    return until(look, "the low call is parked", timeout_s=PARKED_WITHIN_S)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From pressure to effect, with the gate.")
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
