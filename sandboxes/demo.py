# SPDX-License-Identifier: Apache-2.0
"""`make demo`: three agents with different priorities on too little memory, four policies.

Real input: the AgentCgroup authors' traces if AGENTCGROUP_DATA names them, else the
repository's own. Runs natively on a host with cgroup v2 and root, else in a guest; says
which. Leaves a table on the terminal, a picture and all figures in out/demo/. Fails if
nobody is lost without a policy: then it showed nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "demo"
LOST = 125


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traces with their directory, and a budget that is below the sum of their peaks."""

    origin: str
    directory: Path
    traces: tuple[str, ...]
    total_memory: str
    base_memory: str
    speed: str


AUTHORS = Scenario(
    "AgentCgroup traces: dask-11628 (high), 2 x github3.py-673 (low)",
    Path(os.environ.get("AGENTCGROUP_DATA", "/nonexistent")) / "agentcgroup-traces",
    (
        "all_images_haiku/dask__dask-11628",
        "all_images_haiku/sigmavirus24__github3.py-673",
        "all_images_haiku/sigmavirus24__github3.py-673",
    ),
    "900M",
    "100M",
    "10",
)
OWN = Scenario(
    "the repository's own traces: a test suite (high), 2 x a numpy job (low)",
    ROOT / "traces",
    ("pytest.jsonl.gz", "numpy.jsonl.gz", "numpy.jsonl.gz"),
    "1050M",
    "50M",
    "20",
)


def main() -> int:
    scenario = AUTHORS if AUTHORS.directory.is_dir() else OWN
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"demo: {scenario.origin}; {scenario.total_memory} for all three", flush=True)
    if host_can():
        print("demo: running natively on this host", flush=True)
        command = ["agentcgroup", *compare(scenario, scenario.directory, OUT)]
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        status = subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode
    else:
        print("demo: this host can't (no cgroup v2 or no root): running in a guest", flush=True)
        status = in_guest(scenario)
    if status == 0:
        print(f"demo: picture {OUT / 'demo.png'}, figures {OUT / 'demo.json'}")
    elif status == LOST:
        print("demo: the guest was lost, nothing was measured: run it again", file=sys.stderr)
    return status


def host_can() -> bool:
    mount = Path("/sys/fs/cgroup")
    controllers = mount / "cgroup.controllers"
    if os.geteuid() != 0 or not controllers.exists() or not os.access(mount, os.W_OK):
        return False
    return {"memory", "cpu", "pids"} <= set(controllers.read_text(encoding="ascii").split())


def compare(scenario: Scenario, directory: Path, out: Path) -> list[str]:
    return [
        "trace", "compare", *(str(directory / trace) for trace in scenario.traces),
        "--policies", "none,static,agentcgroup,alone",
        "--granularity", "session",
        "--total-memory", scenario.total_memory,
        "--base-memory", scenario.base_memory,
        "--speed", scenario.speed,
        "--priority", "high,low,low",
        "--expect-loss-under", "none",
        "--json", str(out / "demo.json"),
        "--plot", str(out / "demo.png"),
    ]  # fmt: skip


def in_guest(scenario: Scenario) -> int:
    inside = ["agentcgroup", *compare(scenario, Path("/mnt/share"), Path("/mnt/out"))]
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 100
    command = [
        str(ROOT / "sandboxes/guest/run"), "--kernel", "newest", "--timeout", "1800",
        "--share", str(scenario.directory), "--out", str(OUT),
        "--env", f"COLUMNS={width}", "--", *inside,
    ]  # fmt: skip
    for attempt in (1, 2):
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status != LOST or attempt == 2:
            return status
        print("demo: the guest was lost; once more", flush=True)
    return LOST


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"demo: stopped; partial results, if any, are in {shlex.quote(str(OUT))}")
        sys.exit(130)
