# SPDX-License-Identifier: Apache-2.0
"""Which tests run where. What can't run here is deselected, never skipped.

guest: only in a guest (AGENTCGROUP_GUEST=1). data: only with AGENTCGROUP_DATA.
campaign, soak: only when asked for with -m.
"""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("markexpr") or ""
    left_out = set()
    if os.environ.get("AGENTCGROUP_GUEST") != "1":
        left_out.add("guest")
    if not os.environ.get("AGENTCGROUP_DATA"):
        left_out.add("data")
    left_out |= {name for name in ("soak", "campaign") if name not in asked}
    out = [item for item in items if left_out & {mark.name for mark in item.iter_markers()}]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
