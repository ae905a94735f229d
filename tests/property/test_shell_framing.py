# SPDX-License-Identifier: Apache-2.0
"""Whatever text a shell is given, it answers, and the next command is its own again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup import Client
from agentcgroup.client import Shell, channels

# Quotes, expansions, comments, redirections, here-documents; no way to start a process that
# stays, or to do harm in an empty directory.
PIECES = [
    "'", '"', "\\", "`", "$", "$'", "#", "\n", " ", ";", "{", "}", "[[", "]]", "<<x", "<<<", ">x",
    "<x", "2>&1", "!", "*", "=", "((", "))", "x", "echo", "if", "then", "fi", "done", "do", "case",
    "esac", "break", "continue", "return", "eval", "false", "exit", "set -e", "set -u", "set -x",
    "set -v", "exec", "trap x ERR", "trap x DEBUG", "trap x EXIT", "unset x", "\x01", "\x7f", "ä",
    "EOF", "<<EOF", "local y", "declare x",
]  # fmt: skip
commands = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.lists(
    st.sampled_from(PIECES), max_size=12
).map(" ".join)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder: Path = tmp_path_factory.mktemp("shell")
    patch = pytest.MonkeyPatch()
    patch.setattr(channels, "RETRY_S", 0.0)
    with Client(str(folder / "agent.sock")).shell(cwd=folder) as made:
        yield made
    patch.undo()


@settings(deadline=None, max_examples=150)
@given(text=commands)
def test_it_answers_and_goes_on(shell: Shell, text: str) -> None:
    before = set(os.listdir("/proc/self/fd")) if shell.alive else None  # noqa: PTH208
    try:
        result = shell.run(text, timeout=10)
    except subprocess.TimeoutExpired:
        pytest.fail(f"no answer to {text!r}")
    assert result.shell_ended is not shell.alive
    shell.run("exit")
    after = shell.run("printf here")
    assert (after.stdout, after.stderr, after.returncode) == (b"here", b"", 0)
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@settings(deadline=None, max_examples=100)
@given(word=st.binary(max_size=200).map(lambda data: data.replace(b"\0", b"")))
def test_every_byte_arrives_as_it_is(shell: Shell, word: bytes) -> None:
    quoted = b"'" + word.replace(b"'", b"'\\''") + b"'"
    assert shell.run(b"printf %s " + quoted).stdout == word
    assert shell.run("cat", input=word).stdout == word
