# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the guest tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import PrivateDaemon


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    """A daemon of the test's own; the test starts it."""
    with PrivateDaemon() as made:
        yield made
