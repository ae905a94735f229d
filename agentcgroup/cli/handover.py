# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup run` without Python: become agentcgroup-run, which takes the same options."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..client.child import static_launcher

__all__ = ["as_shell", "hand_over"]

_FLAGS = ("--require", "--help")


def hand_over(arguments: Sequence[str]) -> None:
    """Returns only when there is no static program: then Python does the same, slower."""
    program = static_launcher()
    if program is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [Path(program).name, *arguments])


def as_shell(arguments: Sequence[str]) -> list[str]:
    """`run -c TEXT` and the like, as somebody's shell would be called: bash with all of it."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("--") and arguments[at] != "--":
        at += 1 if "=" in arguments[at] or arguments[at] in _FLAGS else 2
    first = arguments[at] if at < len(arguments) else ""
    if len(first) < 2 or first[0] not in "-+" or first == "--":
        return list(arguments)
    shell = os.environ.get("AGENTCGROUP_SHELL") or "bash"
    return [*arguments[:at], "--", shell, *arguments[at:]]
