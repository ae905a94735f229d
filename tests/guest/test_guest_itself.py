# SPDX-License-Identifier: Apache-2.0
"""The guest is what it claims: its role's kernel, cgroup v2, the installed product."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agentcgroup

pytestmark = [pytest.mark.guest, pytest.mark.smoke]

HAS_SCHED_EXT = {"newest": True, "oldscx": True, "noscx": False, "lts": False}


def test_sched_ext_is_there_exactly_where_the_role_has_it(kernel_role: str) -> None:
    assert Path("/sys/kernel/sched_ext").is_dir() == HAS_SCHED_EXT[kernel_role]


def test_lts_is_the_oldest_supported_host(kernel_role: str) -> None:
    is_oldest = platform.release().startswith("6.1.") and sys.version_info[:2] == (3, 11)
    assert is_oldest == (kernel_role == "lts")


def test_bcc_and_headers_are_there_where_the_role_has_them(kernel_role: str) -> None:
    """Else the tests that need them would be left out, and nobody would notice."""
    headers = Path("/lib/modules") / platform.release()
    found = [(headers / name / "include").is_dir() for name in ("build", "source")]
    if kernel_role in ("newest", "noscx"):
        assert found == [True, True] and importlib.util.find_spec("bcc") is not None
    else:
        assert not all(found)


@pytest.mark.parametrize("controller", ["cpu", "cpuset", "io", "memory", "pids"])
def test_controllers_reach_a_new_cgroup(scratch_cgroup: Path, controller: str) -> None:
    assert controller in (scratch_cgroup / "cgroup.controllers").read_text().split()


def test_a_process_is_limited_where_it_is_put(scratch_cgroup: Path) -> None:
    leaf = scratch_cgroup / "leaf"
    leaf.mkdir()
    (leaf / "memory.max").write_text(str(32 << 20))
    (leaf / "memory.swap.max").write_text("0")
    done = subprocess.run(
        ["sh", "-c", f"echo $$ > {leaf}/cgroup.procs && exec python3 -c 'b\"x\" * (96 << 20)'"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    assert "oom_kill 1" in (leaf / "memory.events").read_text().splitlines()


@pytest.mark.parametrize(
    "path",
    ["/sys/fs/bpf", "/sys/kernel/tracing/events", "/sys/kernel/btf/vmlinux", "/dev/fd/0"],
)
def test_kernel_interfaces_are_mounted(path: str) -> None:
    assert Path(path).exists()


def test_memory_pressure_is_accounted() -> None:
    assert "some avg10=" in Path("/proc/pressure/memory").read_text()


@pytest.mark.parametrize("command", ["agentcgroup", "agentcgroupd", "agentcgroup-run"])
def test_commands_are_on_path(command: str) -> None:
    assert shutil.which(command) is not None


def test_the_product_is_installed_not_imported_from_the_checkout() -> None:
    assert not Path(agentcgroup.__file__).is_relative_to("/src")
    assert importlib.metadata.version("agentcgroup")


def test_the_checkout_is_read_only() -> None:
    assert Path("/src/pyproject.toml").is_file()
    with pytest.raises(OSError) as refused:
        Path("/src/new").touch()
    assert refused.value.errno == errno.EROFS


def test_out_and_the_working_directory_are_writable() -> None:
    for directory in (Path("/mnt/out"), Path.cwd(), Path("/tmp")):
        assert os.access(directory, os.W_OK)


def test_swap_on_compressed_memory() -> None:
    subprocess.run(["guest-swap", "64M"], check=True)
    try:
        assert "/dev/zram0" in Path("/proc/swaps").read_text()
    finally:
        subprocess.run(["guest-swap", "off"], check=True)
    assert "/dev/zram0" not in Path("/proc/swaps").read_text()


def test_there_is_no_network() -> None:
    assert [device.name for device in Path("/sys/class/net").iterdir()] == ["lo"]


@pytest.mark.parametrize("tool", ["gcc", "make", "git", "sqlite3", "strace", "bpftool", "dockerd"])
def test_tools_that_tests_use_are_there(tool: str) -> None:
    assert shutil.which(tool) is not None
