# SPDX-License-Identifier: Apache-2.0
"""Every importer and reader over damaged files: a result or a FormatError, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.errors import FormatError
from agentcgroup.trace.format import read_trace
from agentcgroup.trace.importers import files
from agentcgroup.trace.importers.detect import import_source
from agentcgroup.trace.load import load_session_trace

SMALL = Path(__file__).parents[1] / "data-small"
SEEDS = [
    SMALL / "agentcgroup-task" / "resources.json",
    SMALL / "agentcgroup-task" / "tool_calls.json",
    SMALL / "agentcgroup-task" / "usage.jsonl",
    SMALL / "agentcgroup-attempts" / "attempt_2" / "tool_times.jsonl",
    SMALL / "agentstop" / "trajectories.jsonl",
    *sorted((SMALL / "stats").iterdir()),
    *sorted((Path(__file__).parents[2] / "traces").glob("sqlite.jsonl.gz")),
]
WORDS = [
    b"null", b"true", b"-1", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"9" * 400, b"\x00", b"\xff",
    b"\n", b'"', b",", b"}", b"]", b"[" * 2000, b"MB", b"0B / 0B", b"--", b"2026-02-30T99:00:00Z",
]  # fmt: skip


def mutated(whole: bytes, draw: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + draw.randrange(1, 40)] = draw.choice(WORDS)
        elif kind == 2:
            data[at:at] = draw.choice(WORDS)
        elif kind == 3 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        else:
            data[at:at] = data[max(0, at - draw.randrange(1, 200)) : at]
    return bytes(data)


def place(seed_file: Path, data: bytes, folder: Path) -> Path:
    """The damaged file among its undamaged neighbours; what to import."""
    if seed_file.name in ("trajectories.jsonl",) or seed_file.parent.name in ("stats", "traces"):
        path = folder / seed_file.name
        path.write_bytes(data)
        return path
    target = folder / "task"
    shutil.copytree(seed_file.parent, target, dirs_exist_ok=True)
    (target / seed_file.name).write_bytes(data)
    return target


def swallow(path: Path) -> None:
    """No other error may come out of any door."""
    for door in (import_source, load_session_trace):
        with contextlib.suppress(FormatError):
            door(path)
    if path.is_file():
        with contextlib.suppress(FormatError):
            read_trace(path)


@pytest.mark.parametrize("seed_file", SEEDS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_damaged_files(seed_file: Path, tmp_path: Path) -> None:
    draw = random.Random(f"{seed_file.name}/1")
    whole = seed_file.read_bytes()
    compressed = seed_file.suffix == ".gz"
    plain = gzip.decompress(whole)[:20_000] if compressed else whole
    for number in range(60):
        data = mutated(plain, draw)
        if compressed:
            data = gzip.compress(data, 1) if number % 2 else mutated(whole[:20_000], draw)
        swallow(place(seed_file, data, tmp_path))


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_foreign_bytes(junk: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in ("trajectories.jsonl", "stats.txt", "t.jsonl"):
            path = Path(folder) / name
            path.write_bytes(junk)
            swallow(path)


@pytest.mark.parametrize("name", ["resources.json.gz", "trajectories.jsonl.gz", "stats.log"])
def test_a_bomb_is_refused_in_bounded_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 MiB of blanks in a file of 250 KB; the bounds are small, so that the test is quick."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 4 << 20)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 4 << 20)
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=9) as stream:
        for _ in range(256):
            stream.write(b"x" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(FormatError):
        import_source(tmp_path if "resources" in name else path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20
