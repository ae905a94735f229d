# SPDX-License-Identifier: Apache-2.0
"""What calls that said nothing will need: a high quantile of what the same command took.

Old observations fade, so that a test suite that grew is believed soon. What is learned
moves the first grant only: it never refuses, queues or caps a call. Bytes.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["Learned", "fingerprint"]

_KEPT_PEAKS = 16
_KEPT_COMMANDS = 4096
_LEAST_PEAKS = 3
_QUANTILE = 0.9
_FADING = 0.9
_MARGIN_PCT = 12
_OOM_MARGIN_PCT = 50
_MAX_CHARS = 96
_MAX_DEPTH = 3

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_QUOTING = re.compile(r"[\"'\\#]")
_VERSION = re.compile(r"(?<=[a-z])-?[0-9][0-9.]*$")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
_INTERPRETERS = _SHELLS | {"python", "node", "perl", "ruby"}
# The word after one of these says what is done.
_WITH_SUBCOMMAND = frozenset(
    {"git", "pip", "npm", "npx", "yarn", "pnpm", "cargo", "go", "make", "docker", "apt", "apt-get",
     "conda", "uv", "poetry", "tox", "mvn", "gradle", "dotnet"}
)  # fmt: skip
# In front of the command that counts; with this many arguments of their own.
_PREFIXES = {"sudo": 0, "env": 0, "nice": 0, "nohup": 0, "time": 0, "exec": 0, "timeout": 1}


@dataclass(slots=True)
class Learned:
    """Newest peaks by command, the least recently used command dropped first."""

    peaks: OrderedDict[str, tuple[int, ...]] = field(default_factory=OrderedDict)

    def note(self, command: str | None, peak_bytes: int, *, oom_killed: bool = False) -> None:
        """A peak that ended in an OOM kill was not the real one: more was wanted."""
        name = fingerprint(command)
        if name is None or peak_bytes <= 0:
            return
        if oom_killed:
            peak_bytes += peak_bytes * _OOM_MARGIN_PCT // 100
        self.peaks[name] = (*self.peaks.pop(name, ())[-_KEPT_PEAKS + 1 :], peak_bytes)
        if len(self.peaks) > _KEPT_COMMANDS:
            self.peaks.popitem(last=False)

    def expected_bytes(self, command: str | None) -> int | None:
        """None until the command was seen three times."""
        peaks = self.peaks.get(fingerprint(command) or "", ())
        if len(peaks) < _LEAST_PEAKS:
            return None
        peak = _fading_quantile(peaks)
        return peak + peak * _MARGIN_PCT // 100


def _fading_quantile(peaks: tuple[int, ...]) -> int:
    weighted = sorted((peak, _FADING**age) for age, peak in enumerate(reversed(peaks)))
    rest = _QUANTILE * sum(weight for _, weight in weighted)
    for peak, weight in weighted:
        rest -= weight
        if rest <= 0:
            return peak
    return weighted[-1][0]


@functools.lru_cache(maxsize=1024)
def fingerprint(command: str | None) -> str | None:
    """`FOO=1 python3.12 -m pytest -x tests` and `python -m pytest` are the same command.

    Program without path and version, plus the word that says what it does (module, script
    or subcommand). None if there is nothing to go by.
    """
    words = _words(command or "")
    for _ in range(_MAX_DEPTH):
        words = _without_prefixes(words)
        if not words:
            return None
        program = _VERSION.sub("", words[0].rpartition("/")[2].lower()) or words[0]
        inner = _shell_command(words) if program in _SHELLS else None
        if inner is None:
            break
        words = inner
    name = " ".join([program, *_what(program, words[1:])])
    return name[:_MAX_CHARS].strip() or None


def _words(command: str) -> list[str]:
    if not _QUOTING.search(command):
        return command.split()  # shlex goes through it character by character
    try:
        return shlex.split(command)
    except ValueError:  # an open quote
        return command.split()


def _without_prefixes(words: list[str]) -> list[str]:
    while words:
        if _ASSIGNMENT.match(words[0]) or words[0].startswith("-"):
            words = words[1:]
        elif words[0] in _PREFIXES:
            own = _PREFIXES[words[0]]
            words = words[1:]
            while words and words[0].startswith("-"):
                words = words[1:]
            words = words[own:]
        else:
            break
    return words


def _shell_command(words: list[str]) -> list[str] | None:
    """What `sh -c '…'` runs: its last part, for what comes before is mostly `cd`."""
    for at, word in enumerate(words[1:-1], start=1):
        if re.fullmatch(r"-[a-z]*c", word):
            parts = re.split(r"&&|;|\n", words[at + 1])
            said = (part for part in reversed(parts) if part.strip() and part.strip()[0] != "#")
            last = next(said, "")
            return _words(last)
    return None


def _what(program: str, arguments: list[str]) -> list[str]:
    if program in _INTERPRETERS:
        for at, word in enumerate(arguments):
            if word in ("-m", "-c", "-e"):
                return [word, *arguments[at + 1 : at + 2]] if word == "-m" else [word]
            if not word.startswith("-"):
                return [word.rpartition("/")[2]]
    if program in _WITH_SUBCOMMAND:
        return [word for word in arguments if not word.startswith("-")][:1]
    return []
