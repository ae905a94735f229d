# SPDX-License-Identifier: Apache-2.0
"""Failures of libbpf and the verifier, told in one line; and the kernel's own record layouts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agentcgroup.bpf import objects, probe
from agentcgroup.bpf.libbpf import LibBpf, collected_log
from agentcgroup.bpf.objects import BpfLoadError, BpfObject, read_image
from agentcgroup.bpf.probe import Answer
from agentcgroup.errors import NotSupportedError

VERIFIER_LOG = """\
libbpf: prog 'acg_on_exec': BPF program load failed: Permission denied
libbpf: prog 'acg_on_exec': -- BEGIN PROG LOAD LOG --
0: R1=ctx() R10=fp0
; u32 slot = ACG_EXEC, pid; @ toolcall.bpf.c:92
0: (b4) w1 = 1                        ; R1_w=1
12: R0=map_value(ks=4,vs=8) R1=scalar()
R2 unbounded memory access, use 'var &= const' or 'if (var < const)'
processed 300 insns (limit 1000000) max_states_per_insn 0 total_states 20 peak_states 20
-- END PROG LOAD LOG --
libbpf: prog 'acg_on_exec': failed to load: -13
libbpf: failed to load object 'toolcall.bpf.o'"""


def test_a_verifier_log_is_folded_to_the_line_that_tells() -> None:
    told = objects._telling(VERIFIER_LOG.splitlines(), OSError(errno.EACCES, ""))
    assert told == (
        "R2 unbounded memory access, use 'var &= const' or 'if (var < const)'; Permission denied"
    )


def test_without_a_verifier_log_the_first_message_tells() -> None:
    lines = ["libbpf: failed to find valid kernel BTF", "libbpf: failed to load object 'x'"]
    told = objects._telling(lines, OSError(errno.ESRCH, ""))
    assert told == "failed to find valid kernel BTF; No such process"


@pytest.mark.parametrize(("uid", "said"), [(1000, "needs root"), (0, "even to root")])
def test_a_missing_permission_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, uid: int, said: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert said in objects._telling([], OSError(errno.EPERM, ""))


@pytest.mark.parametrize(
    "line",
    [
        "libbpf: prog 'acg_memory_event': BPF program load failed: Invalid argument",
        "libbpf: prog 'acg_memory_event': failed to find kernel BTF type ID of 'x': -3",
        "libbpf: prog 'acg_memory_event': relo #5: failed to relocate: -22",
    ],
)
def test_the_program_to_blame_is_found(line: str) -> None:
    found = objects._FAILED_PROGRAM.search(line)
    assert found is not None
    assert found[1] == "acg_memory_event"


def test_no_built_object_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(objects, "BUILT", tmp_path)
    with pytest.raises(NotSupportedError, match=r"x\.bpf\.o is not installed: run `make bpf`"):
        read_image("x.bpf.o")
    (tmp_path / "build.json").write_text(json.dumps({"bpf": "BPF layers are off: no clang"}))
    with pytest.raises(NotSupportedError, match="not installed: BPF layers are off: no clang"):
        read_image("x.bpf.o")


def test_junk_is_no_object() -> None:
    with pytest.raises(BpfLoadError, match=r"cannot open junk\.o: ") as caught:
        BpfObject(b"junk", "junk.o")
    assert caught.value.log


def test_another_library_names_the_missing_symbol() -> None:
    with pytest.raises(NotSupportedError, match=r"libc\.so\.6 has no libbpf_\w+: install libbpf"):
        LibBpf("libc.so.6")
    with pytest.raises(NotSupportedError, match=r"cannot load libnothing\.so: .*install libbpf1"):
        LibBpf("libnothing.so")


def test_collected_logs_nest() -> None:
    with collected_log() as outer:
        with collected_log() as inner, pytest.raises(BpfLoadError):
            BpfObject(b"junk", "junk.o")
        assert outer == []
    assert inner == []  # the object collects its own


def test_info_offsets_are_the_kernels(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "info.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <stddef.h>\n"
        f"_Static_assert(offsetof(struct bpf_prog_info, recursion_misses) =="
        f' {objects._INFO_RECURSION_MISSES}, "");\n'
        f"_Static_assert(offsetof(struct bpf_prog_info, verified_insns) =="
        f' {objects._INFO_VERIFIED_INSTRUCTIONS}, "");\n'
    )
    subprocess.run([compiler, "-fsyntax-only", source], check=True)


def test_only_conclusive_answers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(Answer.UNKNOWN, "busy"), (Answer.YES, "there"), (Answer.NO, "never asked")])
    monkeypatch.setattr(probe, "_known", {})
    monkeypatch.setitem(probe._PROBES, "btf", lambda: next(answers))
    assert probe.probe("btf").answer is Answer.UNKNOWN
    assert probe.probe("btf").answer is Answer.YES
    assert probe.probe("btf").reason == "there"


def test_an_unsupported_kernel_is_a_no_and_other_errors_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "_known", {})

    def lacks() -> tuple[Answer, str]:
        raise NotSupportedError("no such kernel feature")

    def fails() -> tuple[Answer, str]:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setitem(probe._PROBES, "btf", lacks)
    monkeypatch.setitem(probe._PROBES, "tracing", fails)
    assert probe.probe("btf").answer is Answer.NO
    assert probe.probe("tracing").answer is Answer.UNKNOWN
    probe.forget()
    assert probe._known == {}


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        (errno.EPERM, Answer.NO, "needs root"),
        (errno.ENOSYS, Answer.NO, "built without bpf()"),
        (errno.EINVAL, Answer.NO, "does not know"),
        (errno.ENOMEM, Answer.UNKNOWN, "Cannot allocate memory"),
    ],
)
def test_what_a_refusal_means(number: int, answer: Answer, said: str) -> None:
    got, reason = probe._explain_refusal(number)
    assert got is answer
    assert said in reason
