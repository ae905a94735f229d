# SPDX-License-Identifier: Apache-2.0
"""Record sessions from recipes: each call a real command in a cgroup leaf of its own.

    python3 record.py --tools DIR --out DIR RECIPE.toml…

Needs root, cgroup v2 and overlayfs (the guest has all three). DIR of --tools is a root
file system with the tools (prepare.sh makes one); each recipe works on a throwaway
layer above it. Between calls the recipe's pause stands for the model's time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from agentcgroup.replay.record import SessionRecording
from agentcgroup.trace.load import load_session_trace

SCRATCH = Path("/var/tmp/agentcgroup-record")
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
}


def mount_tools(tools: Path, name: str) -> Path:
    """The tools with a writable layer above them that only this recipe sees."""
    layer = SCRATCH / name
    for part in ("upper", "work", "root"):
        (layer / part).mkdir(parents=True)
    root = layer / "root"
    options = f"lowerdir={tools},upperdir={layer / 'upper'},workdir={layer / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
    return root


def inside(root: Path, command: str) -> list[str]:
    return ["chroot", str(root), "/bin/sh", "-c", command]


def record(recipe: dict[str, Any], tools: Path, out: Path) -> None:
    name = recipe["name"]
    root = mount_tools(tools, name)
    try:
        for command in recipe["setup"]:
            subprocess.run(inside(root, command), env=ENVIRONMENT, check=True)
        path = out / f"{name}.jsonl.gz"
        with SessionRecording(path, session=name, about=recipe["about"]) as session:
            for number, call in enumerate(recipe["call"], 1):
                time.sleep(recipe["pause_s"])
                began_s = time.monotonic()
                status = session.call(
                    inside(root, call["run"]),
                    tool=call.get("tool", "Bash"),
                    text=call["run"],
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                took_s = time.monotonic() - began_s
                print(f"{name} {number}: {took_s:.1f} s, status {status}", flush=True)
    finally:
        for part in ("dev", "proc", ""):
            subprocess.run(["umount", root / part], check=False)
    trace = load_session_trace(path)
    print(
        f"{name}: {trace.duration_s:.0f} s, {len(trace.calls)} calls,"
        f" peak {trace.peak_bytes >> 20} MiB, {path.stat().st_size >> 10} KiB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("recipes", type=Path, nargs="+")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.recipes:
        record(tomllib.loads(path.read_text(encoding="utf-8")), options.tools, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
