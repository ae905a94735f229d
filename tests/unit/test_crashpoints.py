# SPDX-License-Identifier: Apache-2.0
"""Every crash point that a test can name is passed somewhere, under exactly that name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from agentcgroup.daemon import crashpoints

SOURCES = Path(crashpoints.__file__).parent.glob("*.py")


def test_points_are_those_in_the_code() -> None:
    found = Counter[str]()
    for path in SOURCES:
        if path.name != "crashpoints.py":
            found.update(re.findall(r'"((?:begin|grant|end)\.[a-z]+)"', path.read_text()))
    assert set(found) == set(crashpoints.POINTS)
    assert len(crashpoints.POINTS) == len(set(crashpoints.POINTS))


def test_an_unarmed_point_is_passed() -> None:
    for name in ("", *crashpoints.POINTS):
        crashpoints.crash_point(name)
