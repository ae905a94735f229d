# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-run knows a wrong value where no daemon answers, and calls nothing wrong that the
daemon would take."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcgroup.errors import InvalidValueError
from agentcgroup.types.intents import Intent
from agentcgroup.types.validation import parse

pytest_plugins = ["shim_program"]

NUMBERS = st.one_of(
    st.integers(0, 1 << 70).map(str),
    st.decimals(0, 1 << 40, places=4).map(str),
    st.sampled_from(["", ".", "1.", ".5", "-1", "1e3", "0", "0.0", "inf", "9" * 31]),
)
UNITS = st.sampled_from(
    ["", "b", "K", "kib", "MB", "m", "GiB", "gb", "T", "s", "ms", "h", "Bs", "GBs", "µ", "m s"]
)
SPACES = st.sampled_from(["", " "])
TEXTS = st.tuples(SPACES, NUMBERS, SPACES, UNITS, SPACES).map("".join)
OPTIONS = {
    "memory": "--memory", "swap_max": "--swap-max", "cpu": "--cpu", "timeout_s": "--timeout",
}  # fmt: skip


def judged(program: Path, *options: str) -> str:
    """What it says; without a command it never gets further than that."""
    done = subprocess.run(
        [program, *options], capture_output=True, text=True, check=False,
        env={**os.environ, "ASAN_OPTIONS": "exitcode=99:detect_leaks=0"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("agentcgroup: ")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from(sorted(OPTIONS)), text=TEXTS)
def test_it_judges_as_the_daemon_does(program: Path, field: str, text: str) -> None:
    said = judged(program, f"{OPTIONS[field]}={text}")
    try:
        parse(Intent, {field: text})
        taken = True
    except InvalidValueError as problem:
        taken = "at least 1M" in problem.remedy  # asked once there is a command to run
    assert said.startswith("COMMAND:") == taken, said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "2GBs"], ["intent.memory", "'2GBs'", "512M"]),
        (["--memory", "10K"], ["intent.memory", "'10240'", "at least 1M"]),
        (["--memory", "2G", "--memory-max", "1G"], ["intent.memory_max", "'1073741824'", "memory"]),
        (["--cpu", "-1"], ["intent.cpu", "'-1'", "above 0"]),
        (["--pids-max", "-1"], ["intent.pids_max", "'-1'", "greater than or equal to 1"]),
        (["--pids-max", "1.5"], ["intent.pids_max", "'1.5'", "integer"]),
        (["--io-weight", "20000"], ["intent.io_weight", "10000"]),
        (["--latency", "fast"], ["intent.latency", "'fast'", "interactive"]),
        (["--timeout", "soon\nrm"], ["intent.timeout_s"]),
        (["--memory", "ä" * 200], ["intent.memory", "ä…'"]),
    ],
)
def test_the_command_is_not_run(
    program: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    mark = tmp_path / "ran"
    done = subprocess.run(
        [program, *options, "--", "touch", str(mark)], capture_output=True, text=True, check=False,
        env={**os.environ, "AGENTCGROUP_SOCKET": str(tmp_path / "agent.sock")},
    )  # fmt: skip
    assert done.returncode == 2 and not mark.exists()
    assert all(word in done.stderr for word in words), done.stderr
