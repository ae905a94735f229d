# SPDX-License-Identifier: Apache-2.0
"""The fixture `host`: the hierarchy in memory, and in a guest the kernel as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cgroup_backends import Backend, FakeBackend, KernelBackend

ON_THE_KERNEL = pytest.param(KernelBackend, marks=[pytest.mark.guest, pytest.mark.smoke], id="real")


@pytest.fixture(params=[pytest.param(FakeBackend, id="fake"), ON_THE_KERNEL])
def host(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend: Backend = request.param()
    try:
        yield backend
    finally:
        backend.close()
