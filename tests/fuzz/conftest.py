# SPDX-License-Identifier: Apache-2.0
"""The fuzz tests drive the same server as the unit tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
