# SPDX-License-Identifier: Apache-2.0
"""What `trace record` costs: one look at a session and its running calls.

    python recorder.py [--calls 20] [--looks 300]

On any machine: the files of a cgroup as a 7.x kernel writes them, in memory, with values that move
between looks (`active`) or stand still (`idle`). What is measured is this process's CPU time for a
look, as a share of a core at one look in 100 ms; what the kernel does to make the texts is not in
it. In a guest with cgroup v2 (root) there is a row `kernel` besides: the same with real cgroups in
which nothing runs, and how much more that is than a C-like loop of plain reads of the same files.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentcgroup.cgroupfs.handle import Cgroup
from agentcgroup.cgroupfs.kept import KeptFiles
from agentcgroup.trace.format import TraceWriter
from agentcgroup.trace.recorder import FILES, PRESSURE, Recorder

CGROUPFS = Path("/sys/fs/cgroup")
INTERVAL_S = 0.1
STAT_KEYS = (
    "anon", "file", "kernel", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock",
    "vmalloc", "shmem", "zswap", "zswapped", "file_mapped", "file_dirty", "file_writeback",
    "swapcached", "anon_thp", "file_thp", "shmem_thp", "inactive_anon", "active_anon",
    "inactive_file", "active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable", "slab",
    "workingset_refault_anon", "workingset_refault_file", "workingset_activate_anon",
    "workingset_activate_file", "workingset_restore_anon", "workingset_restore_file",
    "workingset_nodereclaim", "pgdemote_kswapd", "pgdemote_direct", "pgscan", "pgsteal", "pgfault",
    "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "thp_fault_alloc", "thp_collapse_alloc",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--looks", type=int, default=300)
    options = parser.parse_args()
    found: dict[str, Any] = {"calls": options.calls, "interval_ms": INTERVAL_S * 1000}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        folders = [Path(scratch, str(n)) for n in range(options.calls + 1)]
        for folder in folders:
            folder.mkdir()
            write_files(folder, 1)
        for row, moves in (("active", True), ("idle", False)):
            found[row] = measured(folders, options.looks, lambda n, moves=moves: moves and [
                write_files(folder, n + 2) for folder in folders
            ])  # fmt: skip
    if (CGROUPFS / "cgroup.controllers").exists() and os.geteuid() == 0:
        with cgroups(options.calls) as folders:
            kernel = measured(folders, options.looks, lambda n: None)
            reads = plain_reads(folders, options.looks)
            found["kernel"] = {**kernel, "over_plain_reads": kernel["look_ms"] / reads}
    print(json.dumps(found, indent=1))


def measured(folders: list[Path], looks: int, between: Callable[[int], object]) -> dict[str, float]:
    taken_s = 0.0
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        writer = stack.enter_context(TraceWriter(Path(scratch, "t.jsonl")))
        sources = [
            stack.enter_context(KeptFiles(stack.enter_context(opened(folder))))
            for folder in folders
        ]
        moment_ns = [0]
        recorder = Recorder(writer, "s", sources[0], now_ns=lambda: moment_ns[0])
        for number, source in enumerate(sources[1:]):
            recorder.watch(f"c{number}", source)
        recorder.sample()
        for number in range(looks):
            between(number)
            moment_ns[0] += int(INTERVAL_S * 1e9)
            before_s = time.process_time()
            recorder.sample()
            taken_s += time.process_time() - before_s
    look_s = taken_s / looks
    return {"look_ms": look_s * 1000, "of_a_core_pct": look_s / INTERVAL_S * 100}


def opened(folder: Path) -> Cgroup:
    """Without the check that it is a cgroup."""
    return Cgroup(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), str(folder))


def plain_reads(folders: list[Path], looks: int) -> float:
    """CPU-ms to read the same files through descriptors, and do nothing with them."""
    with contextlib.ExitStack() as stack:
        fds = []
        for folder in folders:
            for file in FILES:
                with contextlib.suppress(OSError):
                    fds.append(os.open(folder / file, os.O_RDONLY))
                    stack.callback(os.close, fds[-1])
        before_s = time.process_time()
        for _ in range(looks):
            for fd in fds:
                os.pread(fd, 8192, 0)
        return (time.process_time() - before_s) / looks * 1000


@contextlib.contextmanager
def cgroups(calls: int) -> Iterator[list[Path]]:
    session = CGROUPFS / f"recorder-{os.getpid()}"
    session.mkdir()
    leaves = [session / f"c{number}" for number in range(calls)]
    try:
        (CGROUPFS / "cgroup.subtree_control").write_text("+memory +cpu +io +pids")
        (session / "cgroup.subtree_control").write_text("+memory +cpu +io +pids")
        for leaf in leaves:
            leaf.mkdir()
        yield [session, *leaves]
    finally:
        for leaf in leaves:
            leaf.rmdir()
        session.rmdir()


def write_files(folder: Path, seed: int) -> None:
    pressure = (
        "some avg10=0.00 avg60=0.12 avg300=0.05 total={0}\n"
        "full avg10=0.00 avg60=0.02 avg300=0.01 total={1}\n"
    )
    texts = {
        "memory.current": f"{seed * 4096 + (64 << 20)}\n",
        "memory.swap.current": "0\n",
        "pids.current": f"{seed % 7}\n",
        "memory.stat": "".join(f"{key} {seed * 4096 + n}\n" for n, key in enumerate(STAT_KEYS)),
        "cpu.stat": f"usage_usec {seed * 977}\nuser_usec {seed * 700}\nsystem_usec {seed * 277}\n"
        "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n",
        "io.stat": f"8:0 rbytes={seed * 512} wbytes=4096 rios=3 wios=1 dbytes=0 dios=0\n",
        **{f"{of}.pressure": pressure.format(seed * 11, seed * 3) for of in PRESSURE},
    }
    for name, text in texts.items():
        # In place: a control file is the same file for as long as its cgroup lives.
        with (folder / name).open("r+" if (folder / name).exists() else "w") as stream:
            stream.truncate()
            stream.write(text)


if __name__ == "__main__":
    main()
