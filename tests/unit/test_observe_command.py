# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup observe`: distributions from buckets, what is said when something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon

from agentcgroup.bpf import alloclat, instrument
from agentcgroup.bpf.latency import Latency, bucket_of, bucket_start_ns, percentile_ns
from agentcgroup.cli import observe
from agentcgroup.cli.main import exit_code
from agentcgroup.errors import AgentCgroupError, NotPermittedError, NotSupportedError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ns", [*range(1, 300), 999, 1_000_000, 1_048_576, 2**40 + 1, 2**62])
def test_a_bucket_holds_its_durations(ns: int) -> None:
    bucket = bucket_of(ns)
    assert bucket_start_ns(bucket) <= ns < bucket_start_ns(bucket + 1)
    assert bucket_start_ns(bucket + 1) <= 1.125 * bucket_start_ns(bucket)


def test_the_programs_bucket_is_the_same(tmp_path: Path) -> None:
    """Its function, compiled for this machine, agrees."""
    text = (ROOT / "bpf" / "latency.bcc.h").read_text(encoding="utf-8")
    start = text.index("static __always_inline u32 bucket_of")
    body = text[start : text.index("\n}\n", start) + 3]
    values = [0, 1, 2, 3, 7, 8, 9, 15, 16, 1000, 65535, 65536, 10**9, 2**32 - 1, 2**32, 2**63]
    (tmp_path / "b.c").write_text(
        "#include <stdio.h>\ntypedef unsigned u32; typedef unsigned long long u64;\n"
        f"{body}"
        f"int main(void) {{ u64 v[] = {{{','.join(f'{v}ULL' for v in values)}}};\n"
        'for (unsigned i = 0; i < sizeof(v) / sizeof(*v); i++) printf("%u ", bucket_of(v[i])); }'
    )
    subprocess.run(
        ["cc", "-Wall", "-Werror", "-Wno-parentheses", "-o", tmp_path / "b", tmp_path / "b.c"],
        check=True,
    )
    told = subprocess.run([tmp_path / "b"], capture_output=True, text=True, check=True).stdout
    assert [int(word) for word in told.split()] == [bucket_of(v) for v in values]


def test_percentiles_are_within_a_sixteenth() -> None:
    durations = [1000 * (i + 1) for i in range(1000)]
    buckets: dict[int, int] = {}
    for ns in durations:
        buckets[bucket_of(ns)] = buckets.get(bucket_of(ns), 0) + 1
    for share in (0.0, 0.5, 0.95, 0.99, 1.0):
        true_ns = durations[min(999, int(share * 1000))]
        found = percentile_ns(buckets, share, 1_000_000)
        assert found is not None and abs(found - true_ns) <= true_ns / 16 + 1
    assert percentile_ns({}, 0.5, 0) is None
    assert percentile_ns({bucket_of(9_000_000): 1}, 0.5, 8_400_000) == 8_400_000


def test_figures_are_in_milliseconds() -> None:
    told = Latency(3, 3_000_000, 2_000_000, {bucket_of(500_000): 2, bucket_of(2_000_000): 1})
    figures = told.in_ms()
    assert (figures["count"], figures["total"], figures["max"]) == (3, 3.0, 2.0)
    assert figures["p50"] == pytest.approx(0.5, rel=0.07) and figures["p99"] == 2.0
    assert Latency().in_ms() == {
        "p50": None, "p95": None, "p99": None, "max": None, "total": 0.0, "count": 0,
    }  # fmt: skip


def refused() -> AgentCgroupError:
    with pytest.raises(AgentCgroupError) as found:
        alloclat.AllocationLatency(instrument.load_bcc(), 1, 1)
    assert "\n" not in str(found.value)
    return found.value


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = refused()
    assert isinstance(error, NotPermittedError) and exit_code(error) == 77
    assert "sudo" in str(error)


def test_without_bcc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setitem(sys.modules, "bcc", None)
    error = refused()
    assert isinstance(error, NotSupportedError) and exit_code(error) == 78
    assert "apt install python3-bpfcc" in str(error)


def test_the_other_bcc_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setitem(sys.modules, "bcc", types.ModuleType("bcc"))
    assert "another project" in str(refused())


def test_without_headers_it_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bcc = types.ModuleType("bcc")
    bcc.BPF = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bcc", bcc)
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "none"))
    monkeypatch.setattr(instrument, "_KERNEL_HEADERS_ARCHIVE", tmp_path / "none")
    error = refused()
    assert exit_code(error) == 78 and "linux-headers-" in str(error)


def test_a_compiler_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(**_options: Any) -> None:
        os.write(2, b"warning: x\n/virtual/main.c:3: error: unknown type name 'u65'\n1 error\n")
        raise Exception("Failed to compile BPF module <text>")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(alloclat, "_functions_of_kernel", lambda: {"fault": "handle_mm_fault"})
    monkeypatch.setattr(instrument, "_check_headers", lambda: None)
    bcc = types.ModuleType("bcc")
    bcc.BPF = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bcc", bcc)
    assert "error: unknown type name 'u65'" in str(refused())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("instrument_name", ["alloclat", "runqlat"])
def test_command_without_bcc(tmp_path: Path, instrument_name: str) -> None:
    tree = tmp_path / "tree"
    (tree / "s").mkdir(parents=True)
    code = "import sys; sys.modules['bcc'] = None; from agentcgroup.cli.main import main; main()"

    def observed(*options: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "AGENTCGROUP_SOCKET": daemon.agent_path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", code, "observe", instrument_name, *options],
            capture_output=True, text=True, env=env, timeout=60, check=False,
        )  # fmt: skip

    with FakeDaemon(tmp_path) as daemon:
        daemon.handlers["host.status"] = lambda _params, _fd: {"root": str(tree)}
        for options, status, word in (
            ((), 78 if os.geteuid() == 0 else 77, "sudo" if os.geteuid() else "python3-bpfcc"),
            (("--session", "none"), 2, "--session"),
            (("--duration", "soon"), 2, "--duration"),
        ):
            shown = observed(*options)
            assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (status, "", 1)
            assert word in shown.stderr


def test_sessions_are_named_also_after_their_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ids = {name: (tmp_path / name).stat().st_ino for name in ("a", "b")}
    every, one = (observe.SessionNames(tmp_path, only, {0: "(outside)"}) for only in (None, "b"))
    (tmp_path / "b").rmdir()
    assert one.ended and not every.ended
    found = {
        0: {"fault": Latency()},
        1: {"fault": Latency()},
        ids["b"]: {"charge": Latency()},
        ids["a"]: {"fault": Latency(1, 5000, 5000, {bucket_of(5000): 1})},
    }
    every.look()
    told = every.named(found)
    assert [record["session"] for record in told] == ["a", "b", "(outside)"]
    assert told[0]["fault_ms"]["count"] == 1 and "charge_ms" not in told[0]
    assert [record["session"] for record in one.named(found)] == ["b"]
    observe._show(measured(told), observe._ALLOCLAT, False)
    shown = capsys.readouterr().out
    assert "2 s, 2 sessions\n" in shown and "0.005 ms" in shown and "handle_mm_fault" in shown
    assert "what" in shown


def measured(sessions: list[dict[str, Any]], lost_count: int = 0, **about: Any) -> observe.Measured:
    return observe.Measured(2.0, about, lost_count, sessions)


def test_one_operation_needs_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    sessions = [{"session": "a", "runqlat_ms": Latency(1, 5000, 5000).in_ms()}]
    observe._show(measured(sessions, scheduler="simple"), observe._RUNQLAT, False)
    shown = capsys.readouterr()
    assert "2 s, 1 sessions, scheduler simple\n" in shown.out and "what" not in shown.out
    assert "a" in shown.out and shown.err == ""


def test_what_is_lost_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    observe._show(measured([], 7, scheduler="kernel"), observe._RUNQLAT, True)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "duration_s": 2.0, "scheduler": "kernel", "lost": 7, "sessions": [],
    }  # fmt: skip
    assert shown.err.startswith("agentcgroup: 7 durations are missing")
    assert shown.err.count("\n") == 1
