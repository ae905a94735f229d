# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-guardian on directories of ordinary files that stand in for cgroups."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from shim_fake import BUILDS, built

MIB = 1 << 20
WAIT_S = 10.0
ADOPTED = "trusted.agentcgroup.adopted."
EPOCH, SESSION = "trusted.agentcgroup.epoch", "trusted.agentcgroup.session"


@pytest.fixture(scope="session", params=BUILDS)
def program(request: pytest.FixtureRequest) -> Path:
    return built("agentcgroup-guardian", request.param)


def _write(directory: Path, **files: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (directory / name.replace("_", ".", 1)).write_text(f"{value}\n")
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return _write(tmp_path / "tree", memory_max=1000 * MIB, memory_current=0)


def session(root: Path, name: str, used: int, priority: str | None = None) -> Path:
    directory = _write(root / name, memory_current=used * MIB)
    _write(directory / "tools", memory_max="max")
    if priority:
        record = json.dumps({"name": name, "priority": priority}).encode()
        os.setxattr(directory, SESSION, record)
    return directory


def leaf(
    session: Path, name: str, *, used: int, high: int | str, cap: int | str, frozen: int = 0
) -> Path:
    def size(value: int | str) -> int | str:
        return value * MIB if isinstance(value, int) else value

    return _write(
        session / "tools" / name, memory_current=used * MIB, memory_high=size(high),
        memory_max=size(cap), cgroup_freeze=frozen,
    )  # fmt: skip


def written(file: Path) -> str:
    """An ordinary file is empty for a moment while it is written anew."""
    eventually(lambda: file.stat().st_size)
    return file.read_text().strip()


def grant(leaf: Path) -> int:
    return int(written(leaf / "memory.high"))


def frozen(leaf: Path) -> str:
    return written(leaf / "cgroup.freeze")


class Guardian:
    def __init__(self, program: Path, root: Path, *options: str, **env: str) -> None:
        self.fifo = root.parent / "heartbeat"
        self.process = subprocess.Popen(
            [program, "--root", root, "--heartbeat", self.fifo, "--timeout", "0.2", *options],
            stderr=subprocess.PIPE, text=True, env={**os.environ, **env},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        eventually(self.listens)

    def listens(self) -> bool:
        with suppress(OSError):
            os.close(os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    def _read(self) -> None:
        # What a user without privileges can't have is said first, and not the matter here.
        own = ("leave the OOM killer's list", "lock memory", "write the epoch")
        assert self.process.stderr
        for line in self.process.stderr:
            if not any(f"cannot {what}" in line for what in own):
                self.lines.append(line.removeprefix("agentcgroup-guardian: ").rstrip())

    def takes_over(self, count: int = 1) -> None:
        eventually(lambda: sum("epoch" in line for line in self.lines) == count)

    def beat(self, byte: bytes = b"h") -> None:
        fd = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, byte)
        os.close(fd)

    def beat_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.beat()
            time.sleep(0.02)

    def said(self) -> str:
        """All of stderr; ends the guardian."""
        self.process.terminate()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return "\n".join(self.lines)


@pytest.fixture
def guard(program: Path, root: Path) -> Iterator[Callable[..., Guardian]]:
    started: list[Guardian] = []

    def start(*options: str, **env: str) -> Guardian:
        started.append(Guardian(program, root, *options, **env))
        return started[-1]

    yield start
    for guardian in started:
        guardian.process.kill()
        guardian.said()
        assert guardian.process.stderr
        guardian.process.stderr.close()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def trusted_xattrs(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "trusted.agentcgroup.probe", b"1")
    except OSError as error:
        pytest.skip(f"trusted.* attributes need root and a file system that has them: {error}")


def test_silence_thaws_and_raises_within_the_budget(guard, root):
    one = session(root, "one", 400)
    two = session(root, "two", 200)
    stuck = leaf(one, "c1", used=300, high=300, cap="max", frozen=1)
    capped = leaf(one, "c2", used=100, high=100, cap=120)
    roomy = leaf(two, "c3", used=50, high=600, cap=800)
    unlimited = leaf(two, "background", used=150, high="max", cap="max", frozen=1)
    guardian = guard()
    guardian.takes_over()
    # 400 MiB of 1000 are free, for four leaves.
    assert grant(stuck) == 400 * MIB
    assert grant(capped) == 120 * MIB
    assert grant(roomy) == 600 * MIB
    assert (unlimited / "memory.high").read_text() == "max\n"
    assert [frozen(x) for x in (stuck, capped, roomy, unlimited)] == ["0"] * 4
    assert "the daemon is silent: leaves thawed 2, grants raised 2, epoch" in guardian.said()


def test_heartbeats_keep_it_quiet(guard, root):
    held = leaf(session(root, "one", 10), "c1", used=10, high=10, cap=100, frozen=1)
    guardian = guard()
    guardian.beat_for(0.6)
    assert (frozen(held), grant(held)) == ("1", 10 * MIB)
    assert guardian.said() == ""


def test_it_repeats_while_silent_and_goes_quiet_when_heartbeats_return(guard, root):
    one = session(root, "one", 100)
    first = leaf(one, "c1", used=100, high=100, cap=900, frozen=1)
    guardian = guard()
    guardian.takes_over()
    raised = grant(first)
    (first / "cgroup.freeze").write_text("1\n")
    eventually(lambda: frozen(first) == "0")
    assert grant(first) == raised  # not near its grant: no creeping
    (first / "memory.current").write_text(f"{raised}\n")
    (one / "memory.current").write_text(f"{500 * MIB}\n")
    (first / "memory.high").write_text(f"{raised}\n")
    (first / "memory.max").write_text("max\n")
    eventually(lambda: grant(first) == raised + 500 * MIB)
    guardian.beat_for(0.1)
    eventually(lambda: "heartbeats are back" in guardian.lines)
    (first / "cgroup.freeze").write_text("1\n")
    guardian.beat_for(0.6)
    assert frozen(first) == "1"
    eventually(lambda: frozen(first) == "0")  # and the next silence counts again
    guardian.takes_over(2)
    assert guardian.said().count("heartbeats are back") == 1


def test_priority_decides_the_order(guard, root, trusted_xattrs):
    names = ("a-low", "b-normal", "c-high", "d-low", "e-normal", "f-high")
    for name in names:
        # A grant that can't be read is complained of, in the order of the visits.
        leaf(session(root, name, 1, name[2:]), name, used=1, high="none", cap=9)
    os.setxattr(root / "e-normal", SESSION, b'{"priority": damaged')
    guardian = guard()
    guardian.takes_over()
    order = [line.split(" of ")[1][2:].split(":")[0] for line in guardian.lines if " of " in line]
    assert order[: len(names)] == ["high", "high", "normal", "normal", "low", "low"]


def test_sessions_adopted_in_place_are_found(guard, root, trusted_xattrs):
    """They stand outside of the tree; an attribute of its root says where."""
    elsewhere = root.parent / "elsewhere"
    held = leaf(session(elsewhere, "box", 300), "c1", used=100, high=100, cap=900, frozen=1)
    os.setxattr(root, ADOPTED + "box", str(elsewhere / "box").encode())
    os.setxattr(root, ADOPTED + "gone", str(elsewhere / "gone").encode())
    guardian = guard()
    guardian.takes_over()
    # 700 MiB of 1000 are free.
    assert (frozen(held), grant(held)) == ("0", 800 * MIB)
    assert "cannot" not in guardian.said()


def test_no_more_than_is_free_and_never_lower(guard, root):
    one = session(root, "one", 1200)  # over the budget already
    tight = leaf(one, "c1", used=500, high=500, cap="max", frozen=1)
    lent = leaf(one, "c2", used=10, high=700, cap=400)
    guard().takes_over()
    assert (grant(tight), grant(lent), frozen(tight)) == (500 * MIB, 700 * MIB, "0")


def test_the_budget_without_a_limit_at_the_root(guard, root):
    (root / "memory.max").write_text("max\n")
    held = leaf(session(root, "one", 100), "c1", used=100, high=100, cap="max")
    guard("--budget-bytes", str(300 * MIB)).takes_over()
    assert grant(held) == 300 * MIB


def test_a_clean_leave_acts_at_once(guard, root):
    held = leaf(session(root, "one", 1), "c1", used=1, high=1, cap=9, frozen=1)
    guardian = guard("--timeout", "60", "--exit-on-quit")
    guardian.beat(b"hq")
    assert guardian.process.wait(WAIT_S) == 0
    assert frozen(held) == "0"
    assert "the daemon left: leaves thawed 1" in guardian.said()


def test_a_leave_followed_by_a_return_is_none(guard, root):
    held = leaf(session(root, "one", 1), "c1", used=1, high=1, cap=9, frozen=1)
    guardian = guard("--timeout", "60")
    guardian.beat(b"qh")
    time.sleep(0.1)
    assert (frozen(held), guardian.said()) == ("1", "")


def test_a_heartbeat_file_made_anew_is_followed(guard, root):
    guardian = guard()
    guardian.takes_over()
    guardian.fifo.unlink()
    eventually(guardian.fifo.exists)
    guardian.fifo.unlink()
    os.mkfifo(guardian.fifo)
    eventually(guardian.listens)
    guardian.beat_for(0.3)
    assert "heartbeats are back" in guardian.said()


def test_a_tree_that_is_not_there_is_no_error(guard, root, tmp_path):
    elsewhere = root.rename(tmp_path / "elsewhere")
    leaf(session(elsewhere, "one", 1), "c1", used=1, high=1, cap=9, frozen=1)
    guardian = guard()
    guardian.takes_over()
    elsewhere.rename(root)
    eventually(lambda: frozen(root / "one" / "tools" / "c1") == "0")
    assert "cannot" not in guardian.said()


def test_it_goes_on_after_a_leaf_that_it_cannot_use(guard, root):
    one = session(root, "one", 10)
    broken = leaf(one, "a", used=1, high="none", cap=9, frozen=1)
    held = leaf(one, "b", used=1, high=1, cap=9, frozen=1)
    guardian = guard()
    guardian.takes_over()
    assert (frozen(broken), frozen(held)) == ("0", "0")
    assert "cannot use memory.high and memory.current of a: invalid argument" in guardian.said()


def test_it_leaves_other_directories_alone(guard, root):
    one = session(root, "one", 10)
    agent = _write(one / "agent", cgroup_freeze=1, memory_high=1)
    (one / "tools" / "link").symlink_to(agent)
    guard().takes_over()
    assert (frozen(agent), grant(agent)) == ("1", 1)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_of_it(guard, tmp_path, abstract):
    name = f"\0{tmp_path}/notify" if abstract else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(WAIT_S)
        guard(NOTIFY_SOCKET=name.replace("\0", "@"), WATCHDOG_USEC="90000")
        assert manager.recv(64) == b"READY=1"
        assert manager.recv(64) == manager.recv(64) == b"WATCHDOG=1"


def test_it_moves_to_its_own_cgroup_and_leaves_the_oom_list(guard, root, tmp_path):
    own = _write(tmp_path / "own", cgroup_procs="")
    guardian = guard("--cgroup", str(own))
    guardian.takes_over()
    assert (own / "cgroup.procs").read_text()[:1] == "0"
    score = Path(f"/proc/{guardian.process.pid}/oom_score_adj")
    leave = ["sh", "-c", "echo -1000 2>/dev/null > /proc/self/oom_score_adj"]
    may_leave = subprocess.run(leave, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert score.read_text() == ("-1000\n" if may_leave else "0\n")
    assert "cannot" not in guardian.said()


def test_a_cgroup_it_cannot_enter_is_said_and_no_end(guard, tmp_path):
    guardian = guard("--cgroup", str(tmp_path / "missing"))
    guardian.takes_over()
    assert "cannot move to the guardian's own cgroup" in guardian.said()


def test_each_silence_counts_one_epoch(guard, root, trusted_xattrs):
    os.setxattr(root, EPOCH, b"41")
    guardian = guard()
    guardian.takes_over()
    time.sleep(0.5)  # repeats meanwhile
    guardian.beat()
    guardian.takes_over(2)
    assert os.getxattr(root, EPOCH) == b"43"
    age_s = time.time() - int(os.getxattr(root, EPOCH + "_time_ns")) / 1e9
    assert 0 <= age_s < WAIT_S


@pytest.mark.parametrize(
    "options",
    [[], ["--root", "/x"], ["--heartbeat", "/x"], ["--root"], ["--frob", "1"],
     ["--root", "/", "--heartbeat", "/dev/null"], ["--root", "/", "--heartbeat", "/no/such/fifo"],
     ["--root", "/", "--heartbeat", "/x", "--timeout", "soon"],
     ["--root", "/", "--heartbeat", "/x", "--timeout", "0"],
     ["--root", "/", "--heartbeat", "/x", "--budget-bytes", "1G"],
     ["--root", "/", "--heartbeat", "/x", "--budget-bytes", "1x2"]],
)  # fmt: skip
def test_wrong_usage_is_2(program, options):
    done = subprocess.run(
        [program, *options], check=False, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 2
    assert done.stderr.startswith("agentcgroup-guardian: ")
    assert len(done.stderr.splitlines()) == 1
