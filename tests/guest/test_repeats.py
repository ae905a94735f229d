# SPDX-License-Identifier: Apache-2.0
"""A command that was killed for memory and comes again, in a real kernel."""

from __future__ import annotations

import json
import sys

import pytest
from harness import PrivateDaemon

from agentcgroup import Client
from agentcgroup.errors import RefusedError
from agentcgroup.types.outcomes import Reason

pytestmark = [pytest.mark.guest]

HOG = [sys.executable, "-c", "x = bytearray(90 << 20); x[::4096] = b'x' * len(x[::4096])"]
WISHES = {"memory_max": "48M"}


def reason(client: Client, **intent: object) -> Reason | None:
    outcome = client.run(HOG, {**WISHES, **intent}, session="s").outcome
    assert outcome is not None
    return outcome.reason


@pytest.mark.smoke
def test_refused_unless_something_changes(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    first = client.run(HOG, WISHES, session="s").outcome
    assert first is not None and first.reason is Reason.OOM_KILLED
    with pytest.raises(RefusedError) as refusal:
        client.run(HOG, WISHES, session="s")
    assert first.call in str(refusal.value) and "48 MiB" in str(refusal.value)
    assert "memory_max=96 MiB" in refusal.value.remedy
    told = client.calls("s", limit=1)[0].outcome
    assert told is not None and told.reason is Reason.REFUSED and first.call in told.message
    assert reason(client, retry_of=first.call) is Reason.OOM_KILLED
    assert reason(client, memory_max="200M") is Reason.COMPLETED
    assert reason(client) is Reason.OOM_KILLED  # it got by meanwhile: a new story
    assert client.run(["true"], WISHES, session="s").returncode == 0


def test_the_static_program_exits_75(daemon: PrivateDaemon) -> None:
    client = daemon.start().client
    client.create_session("s", memory="300M")
    assert daemon.shim(*HOG, session="s", options=["--memory-max", "48M"]).wait() == 137
    again = daemon.shim(*HOG, session="s", options=["--memory-max", "48M"])
    assert again.wait() == 75
    assert again.outcome["reason"] == "refused"
    assert "was killed for memory" in json.dumps(again.outcome)


@pytest.mark.long
def test_replanned_with_more() -> None:
    with PrivateDaemon(policy={"repeat_oom": "replan"}) as daemon:
        client = daemon.start().client
        client.create_session("s", memory="300M")
        assert reason(client) is Reason.OOM_KILLED
        with client.tool_call(WISHES, session="s") as call:
            assert call.run(HOG).returncode == 0
        assert call.info is not None and call.info.intent_source == "replanned"
        assert call.info.limits["memory_max_bytes"] == 96 << 20
