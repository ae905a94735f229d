# SPDX-License-Identifier: Apache-2.0
"""Our static C programs (sandboxes/shim), wherever this installation has them."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

__all__ = ["find_program"]

_BUILT = Path(__file__).parent / "_built"


@functools.cache
def find_program(name: str) -> str | None:
    """Path of the one in this package, else of the one on PATH; None where neither is."""
    built = _BUILT / name
    if os.access(built, os.X_OK):
        return str(built)
    found = shutil.which(name)
    return found if found is not None and _is_program(found) else None


def _is_program(path: str) -> bool:
    """Not somebody's wrapper script, which might call us again."""
    try:
        with open(path, "rb") as program:
            return program.read(4) == b"\x7fELF"
    except OSError:
        return False
