# SPDX-License-Identifier: Apache-2.0
"""Does taking memory back hold up the daemon? Lowering a line or asking for page cache reclaims
inside write(), for as long as that takes; it runs on a worker, beside the event loop.

Runs inside a guest (or a host like it). A call of low priority fills its grant with page cache
and one of high priority needs it, again and again, while a client asks the daemon for its
version every few milliseconds; then the same questions with nobody taking anything.

    python takeback.py [--rounds 10]

Prints one JSON object: how long the answers took (ms), what was taken back, and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

from harness import CGROUPFS, PrivateDaemon, read_value  # noqa: E402

from agentcgroup.client.client import Client  # noqa: E402
from agentcgroup.types.intents import Intent  # noqa: E402

MIB = 1 << 20
BUDGET_BYTES = 400 * MIB
FILE_MIB = 300
HIGH_MIB = 250
ASK_EVERY_S = 0.005

GROW = "import sys; held = bytearray(int(sys.argv[1]) << 20)"
# Files in a tmpfs are no page cache.
ON_DISK = "/var/tmp"


class Asker(threading.Thread):
    """Asks for the version until told to stop; `took_ms` are its round trips."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        super().__init__(daemon=True)
        self._client = Client(str(daemon.socket), require=True)
        self._over = threading.Event()
        self.took_ms: list[float] = []

    def run(self) -> None:
        while not self._over.wait(ASK_EVERY_S):
            begin = time.perf_counter()
            self._client.version()
            self.took_ms.append((time.perf_counter() - begin) * 1e3)

    def stop(self) -> list[float]:
        self._over.set()
        self.join()
        return self.took_ms


def main() -> None:
    options = arguments()
    taken_bytes: list[int] = []
    taking: list[float] = []
    quiet: list[float] = []
    with tempfile.NamedTemporaryFile(dir=ON_DISK) as file:
        subprocess.run(["head", "-c", f"{FILE_MIB}M", "/dev/zero"], stdout=file, check=True)
        os.fsync(file.fileno())
        with PrivateDaemon(session={"memory_reserve": "1M"}) as daemon:
            daemon.root.mkdir()
            (daemon.root / "memory.max").write_text(str(BUDGET_BYTES))
            daemon.start()
            daemon.client.create_session("high", priority="high")
            daemon.client.create_session("low", priority="low")
            for _ in range(options.rounds):
                quiet += asked(daemon, lambda: time.sleep(1))
                taking += asked(
                    daemon, lambda: taken_bytes.append(take_back(daemon, Path(file.name)))
                )
    rows = {"quiet": quantiles(quiet), "taking": quantiles(taking)}
    print(
        json.dumps(
            {
                "rounds": options.rounds,
                "taken_back_mib": [size / MIB for size in taken_bytes],
                "answers": rows,
                "taking_over_quiet": {
                    figure: rows["taking"][figure] / rows["quiet"][figure]
                    for figure in ("p50_ms", "p99_ms", "max_ms")
                },
            },
            indent=1,
        )
    )


def asked(daemon: PrivateDaemon, meanwhile: Any) -> list[float]:
    asker = Asker(daemon)
    asker.start()
    meanwhile()
    return asker.stop()


def take_back(daemon: PrivateDaemon, file: Path) -> int:
    """Bytes of page cache that the call of low priority lost to the other."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    client = Client(str(daemon.socket), require=True)
    with client.tool_call(Intent(memory=FILE_MIB * MIB), session="low") as low:
        reader = low.popen(["sh", "-c", f"cat {file} > /dev/null; exec sleep 1000"])
        leaf = CGROUPFS / Path(f"/proc/{reader.pid}/cgroup").read_text().strip()[len("0::/") :]
        before = at_most = 0
        while at_most < FILE_MIB * MIB // 2 or at_most > before:
            before = at_most
            time.sleep(0.3)
            at_most = int(read_value(leaf, "memory.current"))
        with client.tool_call(Intent(memory=HIGH_MIB * MIB), session="high") as high:
            high.run([sys.executable, "-I", "-S", "-c", GROW, str(HIGH_MIB - 20)])
        left = int(read_value(leaf, "memory.current"))
        reader.kill()
        reader.wait()
    return at_most - left


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50_ms": statistics.median(ordered),
        "p99_ms": ordered[int(0.99 * len(ordered))],
        "max_ms": ordered[-1],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Taking memory back beside the event loop.")
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
