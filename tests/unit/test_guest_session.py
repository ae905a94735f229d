# SPDX-License-Identifier: Apache-2.0
"""Guest: streaming, exit status and loss, against a small program in QEMU's place.

The program speaks on the inherited sockets as QEMU does; everything on our side is the real code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sandboxes/guest"))

from guestvm import session  # noqa: E402
from guestvm.host import Cache, run_directory  # noqa: E402

_PRELUDE = """
import os, socket, sys, time
ports = {name: socket.socket(fileno=int(number)) for name, number in
         (word.split("=") for word in sys.argv[1:])}
def send(name, data): ports[name].sendall(data)
"""


@dataclass
class ScriptedMachine:
    """Takes the place of qemu.Machine: its command line runs a few lines of Python."""

    script: str

    def command(self, channels: Mapping[str, int]) -> list[str]:
        words = [f"{name}={number}" for name, number in channels.items()]
        return [sys.executable, "-I", "-c", _PRELUDE + self.script, *words]


def boot(tmp_path: Path, script: str, timeout_s: float = 20) -> session.Ending:
    return session.boot(ScriptedMachine(script), tmp_path, timeout_s)  # type: ignore[arg-type]


def test_output_is_passed_on_byte_for_byte(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    payload = bytes(range(256)) * 2000
    ending = boot(
        tmp_path,
        "send('stdout', bytes(range(256)) * 2000); send('stderr', b'e\\r\\n')\n"
        "send('console', b'[ 1.0] noise\\r\\n'); send('status', b'exit 7\\n')",
    )
    out, err = capfdbinary.readouterr()
    assert (out, err, ending.exit_code) == (payload, b"e\r\n", 7)


@pytest.mark.parametrize("code", [0, 1, 125, 137, 255])
def test_exit_status_is_exact(tmp_path: Path, code: int) -> None:
    assert boot(tmp_path, f"send('status', b'exit {code}\\n')").exit_code == code


def test_a_status_on_the_console_or_in_the_output_means_nothing(tmp_path: Path) -> None:
    ending = boot(tmp_path, "send('stdout', b'exit 0\\n'); send('console', b'exit 0\\n')")
    assert ending.exit_code is None
    assert ending.reason == "it ended without an exit status"


def test_a_panic_is_a_lost_guest_with_its_last_lines(tmp_path: Path) -> None:
    ending = boot(tmp_path, "send('console', b'a\\r\\n\\x1b[2JOops: int3: 0000 [#1]\\r\\n')")
    assert ending.exit_code is None
    assert ending.console == ("a", "Oops: int3: 0000 [#1]")
    assert ending.known_panic


def test_another_panic_is_not_the_known_one(tmp_path: Path) -> None:
    assert not boot(tmp_path, "send('console', b'Kernel panic - not syncing\\n')").known_panic


def test_the_known_panic_after_a_status_does_not_count(tmp_path: Path) -> None:
    ending = boot(tmp_path, "send('status', b'exit 0\\n'); send('console', b'Oops: int3\\n')")
    assert (ending.exit_code, ending.known_panic) == (0, False)


def test_a_deadline_ends_it(tmp_path: Path) -> None:
    started = time.monotonic()
    ending = boot(tmp_path, "time.sleep(60)", timeout_s=1)
    assert time.monotonic() - started < 20
    assert (ending.exit_code, ending.reason) == (None, "no end within 1 s")


def test_what_qemu_says_is_the_reason(tmp_path: Path) -> None:
    ending = boot(tmp_path, "print('could not open disk', file=sys.stderr); sys.exit(1)")
    assert ending.reason == "QEMU ended: could not open disk"


def test_directories_of_killed_starts_are_removed_others_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    left = cache.path("run-killed")
    left.mkdir()
    (left / "lock").touch()
    with run_directory(cache) as first, run_directory(cache) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert not left.exists()
    assert list(tmp_path.glob("*run-*")) == []


def test_an_entry_is_complete_or_absent(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def broken(work: Path) -> None:
        (work / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        cache.entry("thing", broken)
    assert not cache.path("thing").exists()
    assert cache.entry("thing", lambda work: (work / "whole").touch()).is_dir()
    assert [path.name for path in cache.path("thing").iterdir()] == ["whole"]
