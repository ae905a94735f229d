# SPDX-License-Identifier: Apache-2.0
"""The guest tests, one throwaway guest a kernel: what `make test` proves in a real kernel.

`newest` runs the short set, the fallback kernels the smoke set. A lost guest (125) is
started once more and then reported as lost, never as a failed test. Inside a guest this
file is not collected.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOST = 125
RUNS = [
    ("newest", [], "guest", 2700),
    ("noscx", [], "smoke", 1800),
    ("lts", [], "smoke", 1500),
    ("newest", ["--systemd"], "systemd", 1200),
]


@pytest.mark.skipif("AGENTCGROUP_GUEST" in os.environ, reason="this is the guest")
@pytest.mark.parametrize(
    ("kernel", "boot", "chosen", "timeout_s"),
    RUNS, ids=["".join([kernel, *boot]) for kernel, boot, _, _ in RUNS],
)  # fmt: skip
def test_in_guest(
    kernel: str,
    boot: list[str],
    chosen: str,
    timeout_s: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = [
        str(ROOT / "sandboxes/guest/run"), "--kernel", kernel, *boot,
        "--timeout", str(timeout_s), "--",
        "pytest", "-q", "-p", "no:cacheprovider", "-m", chosen, "/src/tests/guest",
        "/src/tests/contract",
    ]  # fmt: skip
    with capfd.disabled():
        sys.stdout.write(f"\n== guest tests on {kernel}\n")
        sys.stdout.flush()
        status = LOST
        for _ in range(2):
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            if status != LOST:
                break
    if status == LOST:
        pytest.exit(f"the {kernel} guest was lost twice: nothing was proved there", LOST)
    assert status == 0, f"guest tests on {kernel} ended with status {status}"
