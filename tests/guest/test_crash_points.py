# SPDX-License-Identifier: Apache-2.0
"""The daemon dies after every step of begin, grant and end, and nothing is lost."""

from __future__ import annotations

import pytest
from harness import PrivateDaemon

pytestmark = [pytest.mark.guest, pytest.mark.smoke]


def test_harness(daemon: PrivateDaemon) -> None:
    daemon.start()
    daemon.client.create_session("s", memory="512M")
    for inside in (False, True):
        shim = daemon.shim("sh", "-c", "sleep 0.5; exit 3", session="s", inside=inside)
        call = daemon.call_of(shim)
        assert daemon.leaves() == {call}
        assert daemon.orphans() == []
        assert shim.wait() == 3, shim.stderr + daemon.log_text()
        assert shim.outcome["reason"] == "failed"
    assert daemon.guardian_pid is not None
    assert daemon.stop() == 0, daemon.log_text()
