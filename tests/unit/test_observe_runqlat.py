# SPDX-License-Identifier: Apache-2.0
"""`observe runqlat`: what its program makes of tracepoints, what is made of its tables."""

from __future__ import annotations

import re
import subprocess
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentcgroup.bpf import runqlat
from agentcgroup.bpf.btf import Member
from agentcgroup.bpf.latency import Latency, bucket_of
from agentcgroup.bpf.runqlat import IN_NO_SESSION, RunQueueLatency
from agentcgroup.errors import NotSupportedError

HERE = Path(__file__).parent
BPF = HERE.parents[1] / "bpf"
# Of the harness: cgroups by their place in its tree, sessions by cgroup id.
SLICE, TREE, SESSION_S, SESSION_T, CALL_OF_S, DEEP_ELSEWHERE = 1, 2, 3, 4, 5, 7
S, T = 30, 31


class Story:
    """What a session of the harness printed."""

    def __init__(self, text: str) -> None:
        lines = [line.split() for line in text.splitlines()]
        numbers = [(word, tuple(map(int, rest))) for word, *rest in lines]
        self.totals = {found[0]: found[1:] for word, found in numbers if word == "session"}
        self.waiting = [found for word, found in numbers if word == "waiting"]
        (self.lost,) = next(found for word, found in numbers if word == "lost")


@pytest.fixture(scope="module")
def tell(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Story]:
    """The program, compiled for this machine; what it makes of `NS VERB TASK [OTHER]`."""
    built = tmp_path_factory.mktemp("runqlat")
    (built / "uapi" / "linux").mkdir(parents=True)
    (built / "uapi" / "linux" / "ptrace.h").touch()
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-Wno-parentheses", "-I", BPF, "-I", built,
         "-o", built / "harness", HERE / "runqlat_harness.c"],
        check=True,
    )  # fmt: skip

    def told(*events: str) -> Story:
        text = "\n".join(f"{event} 0" if event.count(" ") < 3 else event for event in events)
        done = subprocess.run(
            [built / "harness"], input=text, capture_output=True, text=True, check=True
        )
        return Story(done.stdout)

    return told


def test_a_wakeup_waits_until_it_runs(tell: Callable[..., Story]) -> None:
    story = tell("0 place 1 3", "100 wake 1", "350 sleep 0 1", "400 sleep 1 0")
    assert story.totals == {S: (1, 250, 250)} and not story.waiting


def test_a_new_task_waits_too(tell: Callable[..., Story]) -> None:
    assert tell("0 place 1 5", "100 new 1", "150 yield 0 1").totals == {S: (1, 50, 50)}


@pytest.mark.parametrize("how", ["yield", "preempt"])
def test_who_gives_way_while_runnable_waits_from_then_on(
    tell: Callable[..., Story], how: str
) -> None:
    story = tell("0 place 1 3", "0 place 2 4", f"10 {how} 1 2", "40 preempt 2 1", "45 sleep 1 2")
    assert story.totals == {S: (1, 30, 30), T: (1, 5, 5)}


def test_preempted_on_the_way_to_sleep_it_waits_since_then(tell: Callable[..., Story]) -> None:
    """Its wake-up must not shorten that."""
    story = tell("0 place 1 3", "5 doze 1", "10 preempt 1 2", "30 wake 1", "60 sleep 2 1")
    assert story.totals[S] == (1, 50, 50) and story.lost == 0


def test_a_wakeup_of_who_still_runs_begins_no_wait(tell: Callable[..., Story]) -> None:
    events = ["0 place 1 3", "0 wake 1", "10 sleep 0 1", "20 doze 1", "30 wake 1"]
    assert tell(*events).waiting == []
    later = tell(*events, "500 sleep 1 0", "900 wake 1", "907 sleep 0 1")
    assert later.totals == {S: (2, 17, 10)}


def test_who_never_gets_a_cpu_is_still_there(tell: Callable[..., Story]) -> None:
    story = tell("0 place 1 3", "10 wake 1", "20 preempt 2 3", "900 preempt 3 2")
    assert (S, 10) in story.waiting and S not in story.totals


def test_sleepers_and_the_idle_task_do_not_wait(tell: Callable[..., Story]) -> None:
    story = tell("0 sleep 1 0", "10 yield 0 2", "20 preempt 0 2", "30 sleep 2 0", "40 yield 0 1")
    assert story.totals == {} and story.waiting == [] and story.lost == 0


@pytest.mark.parametrize(
    ("cgroup", "session"),
    [
        (0, IN_NO_SESSION), (SLICE, IN_NO_SESSION), (TREE, IN_NO_SESSION),
        (DEEP_ELSEWHERE, IN_NO_SESSION),
        (SESSION_S, S), (CALL_OF_S, S), (SESSION_T, T),
    ],
)  # fmt: skip
def test_a_wait_is_the_sessions_above_the_task(
    tell: Callable[..., Story], cgroup: int, session: int
) -> None:
    story = tell(f"0 place 1 {cgroup}", "1 wake 1", "3 sleep 0 1")
    assert story.totals == {session: (1, 2, 2)}


def test_what_finds_no_room_is_counted(tell: Callable[..., Story]) -> None:
    story = tell(*(f"{task} wake {task}" for task in range(1, 71)))
    assert (len(story.waiting), story.lost) == (64, 6)


# --- the user half, on tables that only look like BCC's


class Place(NamedTuple):
    session: int
    what: int
    bucket: int


class FakeBpf:
    """Records in which order it is used."""

    def __init__(self, text: str, cflags: list[str]) -> None:
        self.text, self.cflags, self.calls = text, cflags, list[str]()
        per_cpu = [types.SimpleNamespace(count=1, sum_ns=ns, max_ns=ns) for ns in (900, 1000)]
        self.tables: dict[str, dict[Any, Any]] = {
            "totals": {Place(S, 0, 0): per_cpu},
            "buckets": {Place(S, 0, bucket_of(1000)): types.SimpleNamespace(value=2)},
            "waiting": {},
            "lost": {0: types.SimpleNamespace(value=3)},
        }

    def attach_raw_tracepoint(self, tp: bytes, fn_name: bytes) -> None:
        self.calls.append(f"+{tp.decode()}:{fn_name.decode()}")

    def detach_raw_tracepoint(self, tp: bytes) -> None:
        self.calls.append(f"-{tp.decode()}")

    def cleanup(self) -> None:
        self.calls.append("cleanup")

    def __getitem__(self, name: str) -> dict[Any, Any]:
        self.calls.append(name)
        return self.tables[name]


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunQueueLatency:
    monkeypatch.setattr(runqlat, "_places", lambda: {"TASK_STRUCT_PID": (8, 4)})
    monkeypatch.setattr(runqlat, "_SCHED_EXT_OPS", tmp_path / "ops")
    return RunQueueLatency(types.SimpleNamespace(BPF=FakeBpf), 20, 2)


def test_the_end_of_waits_is_never_missed_while_their_begin_is_seen(
    measuring: RunQueueLatency,
) -> None:
    bpf = measuring._bpf
    assert bpf.cflags == ["-DROOT_ID=20ULL", "-DROOT_LEVEL=2", "-DTASK_STRUCT_PID=8,4"]
    assert bpf.text.index("struct place") < bpf.text.index("int on_switch")
    measuring.read()
    measuring.read()
    measuring.close()
    first = ["+sched_switch:on_switch", "+sched_wakeup:on_wakeup", "+sched_wakeup_new:on_wakeup"]
    ends = ["-sched_wakeup_new", "-sched_wakeup", "-sched_switch"]
    tables = ["waiting", "buckets", "totals"]
    assert bpf.calls == [*first, *ends, *tables, *tables, "cleanup"]


def test_who_still_waits_counts_with_its_wait_so_far(measuring: RunQueueLatency) -> None:
    since_ns = time.monotonic_ns() - 5_000_000_000
    measuring._bpf.tables["waiting"] = {
        address: types.SimpleNamespace(session=session, since_ns=since_ns)
        for address, session in enumerate((S, IN_NO_SESSION, IN_NO_SESSION))
    }
    found = {session: latencies["runqlat"] for session, latencies in measuring.read().items()}
    assert (found[S].count, found[IN_NO_SESSION].count) == (3, 2)
    assert 5e9 <= found[S].max_ns == found[S].sum_ns - 1900 < 15e9
    assert found[S].in_ms()["p50"] == pytest.approx(0.001, rel=0.07)
    assert found[IN_NO_SESSION].in_ms()["p50"] == pytest.approx(5000, rel=2)
    assert measuring.lost_count() == 3


def test_a_wait_that_begins_after_the_end_takes_no_time(measuring: RunQueueLatency) -> None:
    later = types.SimpleNamespace(session=T, since_ns=time.monotonic_ns() + 10**15)
    measuring._bpf.tables["waiting"] = {1: later}
    assert measuring.read()[T]["runqlat"].in_ms()["max"] == 0.0


def test_it_says_under_which_schedulers(measuring: RunQueueLatency) -> None:
    assert measuring.about() == {"scheduler": "kernel"}
    for name in ("simple_1.0\n", "simple_1.0\n", "other\n", None):
        if name is None:
            runqlat._SCHED_EXT_OPS.unlink()
        else:
            runqlat._SCHED_EXT_OPS.write_text(name)
        measuring.look()
    assert measuring.about() == {"scheduler": "kernel, simple_1.0, other, kernel"}


def test_what_the_verifier_says_is_one_line(
    measuring: RunQueueLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Exception("Failed to load BPF program on_switch: Permission denied")

    monkeypatch.setattr(FakeBpf, "attach_raw_tracepoint", refuse)
    with pytest.raises(NotSupportedError, match=r"^BCC cannot load .*on_switch"):
        RunQueueLatency(types.SimpleNamespace(BPF=FakeBpf), 20, 2)


class FakeBtf:
    """A kernel that has what it is told."""

    def __init__(self, arguments: tuple[str, ...] | None, without: str = "") -> None:
        self.arguments, self.without, self.closed = arguments, without, False

    def tracepoint_parameters(self, name: str) -> tuple[str, ...] | None:
        return self.arguments if name == "sched_switch" else None

    def try_find(self, name: str, _kind: int) -> str | None:
        return None if name == self.without else name

    def members(self, struct: str) -> list[Member]:
        names = [name for name in ("first", *runqlat._READ[struct]) if name != self.without]
        return [Member(name, 8 * place, place) for place, name in enumerate(names)]

    def size_of(self, type_id: int) -> int:
        return 0 if type_id == 1 else type_id

    def close(self) -> None:
        self.closed = True


SWITCH = ("bool", "struct task_struct *", "struct task_struct *", "unsigned int")


@pytest.mark.parametrize(
    ("btf", "says"),
    [
        (FakeBtf(None), "sched_switch"),
        (FakeBtf(SWITCH[1:]), "sched_switch"),
        (FakeBtf(SWITCH, "css_set"), "css_set.dfl_cgrp"),
        (FakeBtf(SWITCH, "on_cpu"), "task_struct.on_cpu"),
    ],
)
def test_a_kernel_without_what_it_reads_is_named(
    monkeypatch: pytest.MonkeyPatch, btf: FakeBtf, says: str
) -> None:
    monkeypatch.setattr(runqlat.Btf, "of_kernel", lambda: btf)
    with pytest.raises(NotSupportedError, match=says):
        runqlat._places()
    assert btf.closed


def test_the_program_gets_every_place_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runqlat.Btf, "of_kernel", lambda: FakeBtf(SWITCH))
    text = (BPF / "runqlat.bcc.c").read_text(encoding="utf-8")
    read = set(re.findall(r"\b(?:TASK_STRUCT|CSS_SET|CGROUP|KERNFS_NODE)_[A-Z_]+", text))
    places = runqlat._places()
    assert set(places) == read
    assert (places["CGROUP_KN"], places["CGROUP_ANCESTORS"]) == ((16, 2), (8, 8))


def test_durations_are_joined() -> None:
    joined = Latency(1, 8, 8, {bucket_of(8): 1}).joined_by([8, 16])
    assert joined == Latency(3, 32, 16, {bucket_of(8): 2, bucket_of(16): 1})
    assert Latency().joined_by([]) == Latency(0, 0, 0, {})
