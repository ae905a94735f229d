# SPDX-License-Identifier: Apache-2.0
"""Record -> replay -> record: does a replayed session look like the one that was recorded?

Runs inside a guest and prints one JSON object. A session of real commands is recorded from a live
daemon; then its trace is replayed (calls as calls, at recorded speed, with room for all) and that
is recorded again, as often as asked. Compared are the session's memory over time, from the first
call's beginning on: the area between the two curves over the area below the recorded one; and the
order in which calls begin and end. `shifted` is the same area when each call's part of the curve
is compared from that call's own beginning: what is left then is memory, not starting times.

    python roundtrip.py [--rounds 3] [--trace FILE…] [--keep FOLDER]

With --trace, these traces are what is replayed first, instead of the session of real commands.
"""

from __future__ import annotations

import argparse
import bisect
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

from harness import PrivateDaemon, until  # noqa: E402

from agentcgroup.replay.record import record_session  # noqa: E402
from agentcgroup.trace.load import load_session_trace  # noqa: E402
from agentcgroup.trace.model import CallSpan, SessionTrace  # noqa: E402

INTERVAL_MS = 50
GRID_S = 0.05
# For the recorder to be there.
START_S = 3.0
GROW = "import time\nx=[]\nfor _ in range({steps}):\n x.append(b'x' * ({mib}<<20)); time.sleep({s})"
WORK = (
    ("grow", [sys.executable, "-c", GROW.format(steps=8, mib=24, s=1.0)]),
    ("list", ["sh", "-c", "ls -lR /usr/lib >/dev/null; sleep 3"]),
    ("burst", [sys.executable, "-c", GROW.format(steps=1, mib=300, s=4.0)]),
    ("sort", ["sh", "-c", "seq 1 150000 | sort -R | tail -n 1; sleep 2"]),
    ("compile", [sys.executable, "-m", "compileall", "-q", "-f", "/usr/lib/python3/dist-packages"]),
    ("saw", [sys.executable, "-c", "import time\nfor _ in range(5):\n x=b'x'*(150<<20)\n"
             " time.sleep(1)\n del x\n time.sleep(1)"]),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="replays, each of the one before")
    parser.add_argument("--trace", type=Path, nargs="*", default=[])
    parser.add_argument("--keep", type=Path, help="a folder for the traces")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch, PrivateDaemon() as daemon:
        daemon.start()
        recorded = options.trace or [Path(scratch, "0.jsonl")]
        if not options.trace:
            recorded_while(daemon, "work", recorded[0], lambda: work(daemon))
        for path in recorded:
            found += rounds(daemon, path, Path(scratch), options.rounds)
        if options.keep is not None:
            shutil.copytree(scratch, options.keep, dirs_exist_ok=True)
    area = [row["area_pct"] for row in found]
    print(json.dumps({
        "interval_ms": INTERVAL_MS, "rounds": found,
        "area_pct": {"median": statistics.median(area), "max": max(area)},
        "order_equal": all(row["order_equal"] for row in found),
    }, indent=1))  # fmt: skip


def rounds(daemon: PrivateDaemon, first: Path, scratch: Path, count: int) -> list[dict[str, Any]]:
    """Each replay compared with what it replayed."""
    found, before = [], first
    for number in range(1, count + 1):
        name = load_session_trace(before).name
        after = scratch / f"{first.stem}-{number}.jsonl"
        source = before
        recorded_while(daemon, name, after, lambda source=source: replay(daemon, source))
        found.append({"of": first.stem, "round": number, **compared(before, after)})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
        before = after
    return found


def work(daemon: PrivateDaemon) -> None:
    daemon.client.create_session("work")
    time.sleep(START_S)
    for label, argv in WORK:
        daemon.shim(*argv, session="work", options=("--label", label)).wait()
        time.sleep(1)
    daemon.client.end_session("work")


def replay(daemon: PrivateDaemon, trace: Path) -> None:
    subprocess.run(
        ["agentcgroup", "trace", "replay", str(trace), "--total-memory", "3G", "--socket",
         str(daemon.socket), "--granularity", "tool", "--speed", "1", "--base-memory", "0"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def recorded_while(daemon: PrivateDaemon, session: str, out: Path, act: Any) -> None:
    acting = threading.Thread(target=act)
    acting.start()

    def begun() -> bool:
        return session in (info.name for info in daemon.client.sessions())

    until(lambda: begun() or not acting.is_alive(), "the session begins")
    record_session(
        session, out, interval_ms=INTERVAL_MS, socket=str(daemon.socket), stop=threading.Event()
    )
    acting.join()


def compared(before: Path, after: Path) -> dict[str, Any]:
    first, second = load_session_trace(before), load_session_trace(after)
    whole = area(first, second, first.calls[0], second.calls[0], None)
    parts = [area(first, second, a, b, a.duration_s)
             for a, b in zip(first.calls, second.calls, strict=False)]  # fmt: skip
    return {
        "area_pct": whole[0] / whole[1] * 100,
        "shifted_area_pct": sum(p[0] for p in parts) / sum(p[1] for p in parts) * 100,
        "order_equal": order(before) == order(after),
        "calls": len(first.calls),
        "duration_s": [first.duration_s, second.duration_s],
        "mean_bytes": [first.mean_bytes, second.mean_bytes],
        "peak_bytes": [first.peak_bytes, second.peak_bytes],
    }


def order(path: Path) -> list[tuple[str, int]]:
    """Begins and ends of calls, which are numbered as they begin."""
    calls = load_session_trace(path).calls
    edges = [(call.begin_s, "begin", n) for n, call in enumerate(calls)]
    edges += [(call.end_s, "end", n) for n, call in enumerate(calls)]
    return [(what, n) for _, what, n in sorted(edges)]


def area(
    first: SessionTrace, second: SessionTrace, a: CallSpan, b: CallSpan, length_s: float | None
) -> tuple[float, float]:
    """Byte-seconds between the curves and below the first, from the calls' beginnings on."""
    if length_s is None:
        length_s = max(first.duration_s - a.begin_s, second.duration_s - b.begin_s)
    between = below = 0.0
    for step in range(int(length_s / GRID_S) + 1):
        at_s = step * GRID_S
        one, other = level(first, a.begin_s + at_s), level(second, b.begin_s + at_s)
        between += abs(one - other) * GRID_S
        below += one * GRID_S
    return between, below


def level(trace: SessionTrace, at_s: float) -> int:
    """0 after its end."""
    if at_s > trace.duration_s:
        return 0
    index = bisect.bisect_right(trace.samples, (at_s, 1 << 62)) - 1
    return trace.samples[max(0, index)][1]


if __name__ == "__main__":
    main()
