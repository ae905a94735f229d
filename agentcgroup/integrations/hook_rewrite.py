# SPDX-License-Identifier: Apache-2.0
"""A shell command turned into the same command run as a tool call. Pure text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

__all__ = ["options_for", "rewritten", "runs_managed"]

# What changes the shell that an agent keeps must stay outside: `cd DIR && …` is how they do it.
_WORD = r"(?:'[^']*'|\"[^\"$`\\]*\"|[\w./~@:+,=-]+)"
_LEADING_CD = re.compile(rf"\s*cd(?:[ \t]+{_WORD})?[ \t]*(?:&&|;|\n)\s*")
_ONLY_CD = re.compile(rf"\s*cd(?:[ \t]+{_WORD})?\s*;?\s*")
_LABEL_CHARS = 64
_MANAGED = re.compile(r"\s*(?:'[^']*/|\S*/)?agentcgroup(?:-run'?|'?\s+run)\s")


def runs_managed(command: str) -> bool:
    """It is a tool call by its own words."""
    rest = command[match.end() :] if (match := _LEADING_CD.match(command)) else command
    return _MANAGED.match(rest) is not None


def rewritten(command: str, launcher: str, options: Sequence[str]) -> str | None:
    """The command to run instead; None where there is nothing to gain.

    As a shell's command: whoever may not begin a call (an agent in no session) still runs it.
    """
    if not command.strip() or _ONLY_CD.fullmatch(command) or runs_managed(command):
        return None
    before = match[0] if (match := _LEADING_CD.match(command)) else ""
    rest = command[len(before) :]
    if not rest.strip():
        return None
    return before + shlex.join([launcher, *options, "-c", rest])


def options_for(wishes: Mapping[str, str], label: str) -> list[str]:
    """Options of agentcgroup-run. A server that a command leaves behind is meant to stay."""
    said = {"background": "keep", "label": label[:_LABEL_CHARS], **wishes}
    options: list[str] = []
    for name, value in said.items():
        if value:
            options += ["--" + name.removesuffix("_s").replace("_", "-"), value]
    return options
