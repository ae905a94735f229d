# SPDX-License-Identifier: Apache-2.0
"""`agentcgroup run` without Python: become agentcgroup-run, which takes the same options."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..client.child import static_launcher

__all__ = ["hand_over"]


def hand_over(arguments: Sequence[str]) -> None:
    """Returns only when there is no static program: then Python does the same, slower."""
    program = static_launcher()
    if program is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [Path(program).name, *arguments])
