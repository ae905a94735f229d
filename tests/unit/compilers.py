# SPDX-License-Identifier: Apache-2.0
"""What a machine has to compile with; whatever release of clang that is."""

from __future__ import annotations

import shutil

__all__ = ["HAVE_C", "HAVE_CLANG", "NEEDS"]

NEEDS = "needs make, gcc, clang 16 or newer and libbpf-dev"
_CLANGS = ("clang", *(f"clang-{release}" for release in range(16, 40)))
HAVE_C = bool(shutil.which("make") and shutil.which("gcc"))
HAVE_CLANG = bool(shutil.which("make") and any(shutil.which(name) for name in _CLANGS))
