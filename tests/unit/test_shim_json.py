# SPDX-License-Identifier: Apache-2.0
"""The C programs' JSON against Python's, and against damage (built with sanitizers)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

SHIM = Path(__file__).parents[2] / "sandboxes" / "shim"
REPLY: dict[str, Any] = {
    "jsonrpc": "2.0", "id": 7,
    "result": {
        "outcome": {
            "reason": "oom_killed", "exit_code": None, "peak": 2.5e9, "ok": False,
            "message": 'say "hi"\n\\ \u00e4 \U0001f600 \x07', "list": [[], {}, [{"message": "no"}]],
        },
        "call": "c1", "": "nameless",
    },
    "a": {"b": {"c": "deep"}}, "error": {"message": "m", "data": {"kind": "refused"}},
}  # fmt: skip


@pytest.fixture(scope="session")
def json_check() -> Path:
    subprocess.run(["make", "-s", "-C", SHIM, "check"], check=True)
    return SHIM / ".output" / "check" / "json_check"


def run(program: Path, *arguments: str, stdin: bytes) -> list[str]:
    done = subprocess.run(
        [program, *arguments], check=False, input=stdin, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_values_are_found_by_path(json_check: Path, spaced: bool, ascii_only: bool) -> None:
    separators = (" , ", " :\t") if spaced else (",", ":")
    document = json.dumps(REPLY, separators=separators, ensure_ascii=ascii_only)
    paths = [
        "id", "result.call", "result.outcome", "result.outcome.reason", "result.outcome.peak",
        "result.outcome.ok", "result.outcome.message", "result.outcome.list", "a.b.c",
        "error.data.kind", "result.",
    ]  # fmt: skip
    found = run(json_check, "find", stdin="".join(f"{p}\t{document}\n" for p in paths).encode())
    for path, text in zip(paths, found, strict=True):
        value: Any = REPLY
        for key in path.split("."):
            value = value[key]
        assert json.loads(text) == value


@pytest.mark.parametrize(
    "line",
    [
        'a\t{"b":1}', 'a\t{"a":null}', "a\t", "a\t[1]", 'a\t"a"', 'a.b\t{"a":1}', 'a\t{"a"',
        'a\t{"a":', 'a\t{"a":[}', 'a\t{"a":{]}', 'a\t{"a":"x', 'a\t{"a":"x\\', 'a\t{"b":,"a":1}',
        'a\t{"b":"c" "a":1}', 'a\t{a:1}', "a\t{" + '"b":' + "[" * 65 + "]" * 65 + ',"a":1}',
        'a\t{"b":' + "[" * 500_000,
    ],
)  # fmt: skip
def test_absent_or_damaged_is_not_found(json_check: Path, line: str) -> None:
    assert run(json_check, "find", stdin=line.encode()) == ["-"]


def test_nesting_up_to_the_bound_is_skipped(json_check: Path) -> None:
    line = 'a\t{"b":' + "[" * 64 + "]" * 64 + ',"a":"here"}'
    assert run(json_check, "find", stdin=line.encode()) == ['"here"']


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('"plain"', "plain"), ('""', ""), (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
        (r'"\u0041\u00e4\u20ac"', "Aä€"), (r'"\ud83d\ude00"', "😀"), (r'"\ud83d"', "\ufffd"),
        (r'"\ud83dx"', "\ufffdx"), (r'"\ud83d\u0041"', "\ufffdA"), (r'"\ude00"', "\ufffd"),
        (r'"\u0000"', "\0"), ('"ä€😀"', "ä€😀"),
    ],
)  # fmt: skip
def test_strings_are_unescaped(json_check: Path, written: str, text: str) -> None:
    shown = run(json_check, "text", stdin=written.encode())
    assert bytes.fromhex(shown[0]).decode() == text


@pytest.mark.parametrize("written", ["1", '"', r'"\x"', r'"\u12"', r'"\u12g4"', '"\\"', "{}"])
def test_what_is_no_string_has_no_text(json_check: Path, written: str) -> None:
    assert run(json_check, "text", stdin=written.encode()) == ["-"]


def test_any_bytes_become_a_string_that_python_reads(json_check: Path) -> None:
    cases = [bytes([a, b]) for a in range(256) for b in (0, 0x22, 0x41, 0x80, 0xBF, 0xFF)]
    cases += [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf0\x9f\x98\x80", b""]
    lines = run(json_check, "string", stdin=b"".join(c.hex().encode() + b"\n" for c in cases))
    for case, line in zip(cases, lines, strict=True):
        text = json.loads(line)
        try:
            assert text == case.decode()
        except UnicodeDecodeError:
            assert "\ufffd" in text


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_replies_do_no_harm(json_check: Path, seed: int) -> None:
    documents = [json.dumps(REPLY), json.dumps(REPLY, ensure_ascii=False), json.dumps({"a": [1]})]
    stdin = "\n".join(documents).encode()
    assert run(json_check, "fuzz", str(seed), "20000", stdin=stdin) == []
